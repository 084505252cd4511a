"""Calls: the live ones, by their key and by the gateway stream that they belong to."""

from collections.abc import Iterator

from services.scheduler.events import CallFinished, CallHandedOff, CallKey, CallLost, CallStarted
from services.scheduler.records import Call


class Calls:
    """Bounded as the queue and the workers are."""

    def __init__(self) -> None:
        self._calls: dict[CallKey, Call] = {}
        self._links: dict[int, dict[CallKey, Call]] = {}

    def __len__(self) -> int:
        return len(self._calls)

    def __iter__(self) -> Iterator[CallKey]:
        return iter(self._calls)

    def __contains__(self, key: CallKey) -> bool:
        return key in self._calls

    def __getitem__(self, key: CallKey) -> Call:
        return self._calls[key]

    def get(self, key: CallKey) -> Call | None:
        """The live call of that key."""
        return self._calls.get(key)

    def live(self, event: CallStarted | CallFinished | CallLost | CallHandedOff) -> Call | None:
        """The call that the event is about, if it is the business of the event's link."""
        call = self._calls.get((event.program_id, event.call_id))
        return call if call is not None and call.link == event.link else None

    def left(self, event: CallLost | CallHandedOff) -> Call | None:
        """The call whose current attempt ended before the call did, with what it generated taken in."""
        call = self.live(event)
        if call is None or not call.worker_id or call.attempt != event.attempt:
            return None
        call.prompt_tokens += max(0, event.generated_tokens - call.generated_tokens)
        call.generated_tokens = max(event.generated_tokens, call.generated_tokens)
        return call

    def values(self) -> list[Call]:
        """All."""
        return list(self._calls.values())

    def of_link(self, link: int) -> list[Call]:
        """The calls of a gateway stream."""
        return list(self._links.get(link, {}).values())

    def links(self) -> list[int]:
        """The streams that have calls."""
        return list(self._links)

    def add(self, call: Call) -> None:
        """A call began."""
        self._calls[call.key] = call
        self._links.setdefault(call.link, {})[call.key] = call

    def remove(self, call: Call) -> None:
        """A call is over."""
        del self._calls[call.key]
        calls = self._links[call.link]
        del calls[call.key]
        if not calls:
            del self._links[call.link]
