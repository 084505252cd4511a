"""Lineage: the calls of one program, and which of them waited for which.

Nobody says, so it is inferred, the surest first: what the caller declares; content (a prompt that extends an earlier
call's, an output that stands in it); time (what ended since, and has nobody who goes on from it).

A call that has ended is *open* until somebody goes on from it; it stays open until the next end of a call, so that all
who begin together find the same. A *fork* is what calls with the same parents have in common, named by the parents as a
bit mask; a chain of predecessors belongs to the fork of its first call. A mask has one bit per call of the program, so
what lies behind a call is one number and to reduce a set of parents transitively is an `and`.
"""

from array import array
from collections.abc import Sequence

from services.workflow.events import CallBegan, CallEnded
from services.workflow.structure.prompts import Prompt, Prompts
from services.workflow.structure.record import MAX_CALLS, Record

_MAX_OPEN = 256
MESSAGES_PER_UNIT = 64
"""Messages that weigh as much as a call in what is held."""


class Lineage:
    """Of one program."""

    __slots__ = (
        "_calls",
        "_closing",
        "_last",
        "_next_index",
        "_num_ends",
        "_open",
        "_outputs",
        "_prompts",
        "_running",
        "_threads",
    )

    def __init__(self) -> None:
        self._calls: dict[str, Record] = {}
        self._prompts = Prompts()
        self._outputs: dict[int, Record] = {}
        self._running: dict[str, Record] = {}
        self._open: dict[str, Record] = {}
        """In order of their ends."""
        self._closing: list[Record] = []
        self._last: Record | None = None
        """That ended."""
        self._threads: dict[tuple[str, str], Record] = {}
        self._num_ends = 0
        self._next_index = 0

    def find(self, call_id: str) -> Record | None:
        return self._calls.get(call_id)

    @property
    def units(self) -> int:
        """What it holds: calls, and messages for less."""
        return len(self._calls) + self._prompts.num_messages // MESSAGES_PER_UNIT

    def check(self) -> None:
        """Raises AssertionError if something is wrong."""
        assert len(self._calls) <= 2 * MAX_CALLS
        assert self._open.keys() <= self._calls.keys()
        assert self._running.keys() <= self._calls.keys()
        for record in self._calls.values():
            assert (record.ended_at < 0) == (record.call_id in self._running)
            assert all(parent.index < record.index for parent in record.parents)
            assert record.behind >> record.index == 1

    def make_room(self) -> None:
        """Before a call begins: the older half of too many calls is forgotten."""
        if self._next_index >= 2 * MAX_CALLS:
            self._forget()
            self._next_index -= MAX_CALLS

    def same_thread(self, event: CallBegan) -> Record | None:
        """The last call of the thread that the caller named."""
        found = self._threads.get((event.thread, event.agent)) if event.thread else None
        return found if found is not None and found.ended_at >= 0 else None

    def extended(self, prompt: Prompt, prompt_tokens: int) -> Record | None:
        """The ended call whose prompt this one extends, edits of the tail allowed."""
        return self._prompts.extended(prompt, prompt_tokens)

    def begin(self, event: CallBegan, prompt: Prompt, role: str, shown: str, predecessor: Record | None) -> Record:
        """A call that is not known yet."""
        record = Record(
            event.call_id, self._next_index, event.agent, role, shown, event.step or role, event.prompt_tokens
        )
        record.look = event.agent or prompt.head
        record.begun_at = record.root_begun_at = self._num_ends
        if predecessor is None:
            predecessor = self._grown(prompt, record)
        declared = [known for parent in event.parents if (known := self._calls.get(parent)) is not None]
        parents = declared or self._parents(event.messages, prompt, record, predecessor)
        self._enter(record, parents, predecessor)
        self._prompts.add(prompt, record)
        if event.thread:
            self._threads[event.thread, event.agent] = record
        return record

    def end(self, event: CallEnded) -> Record | None:
        """The call, unless it is unknown or had ended."""
        record = self._running.pop(event.call_id, None)
        if record is None:
            return None
        record.ended_at = self._num_ends + 1
        if not event.completed:
            self._fail(record)
            return record
        for closing in self._closing:
            self._open.pop(closing.call_id, None)
        self._closing.clear()
        self._num_ends += 1
        record.tokens = (event.prompt_tokens or record.prompt_tokens) + event.output_tokens
        record.asked_tools = bool(event.tools)
        if event.output:
            record.output = event.output
            self._outputs[event.output] = record
        self._open[record.call_id] = record
        if len(self._open) > _MAX_OPEN:
            del self._open[next(iter(self._open))]
        self._last = record
        return record

    def _fail(self, record: Record) -> None:
        """Nobody goes on from it; whoever tries again goes on from its parents."""
        record.failed = True
        for parent in record.parents:
            parent.num_children -= 1
            if not parent.num_children and not parent.failed:
                parent.continued_at = -1
                self._closing = [other for other in self._closing if other is not parent]
                self._open = {parent.call_id: parent} | self._open

    def running_siblings(self, record: Record) -> int:
        """Calls in flight whose chains began where the chain of `record` began."""
        return sum(other.fork == record.fork for other in self._running.values())

    def _grown(self, prompt: Prompt, record: Record) -> Record | None:
        """The open call of the same role that this one may go on from although its prompt was rewritten: its prompt
        begins alike, and is no shorter than all that was said, or nothing else could have been waited for."""
        best: Record | None = None
        for other in self._open.values():
            if other.continued_at >= 0 or other.look != record.look or not self._prompts.begins_alike(prompt, other):
                continue
            if other.asked_tools and record.prompt_tokens >= other.tokens:
                best = other if best is None or other.tokens >= best.tokens else best
            elif best is None and not self._running and other is self._last and self._alone(other):
                best = other
        return best

    def _alone(self, record: Record) -> bool:
        """No other open call began where it did: it is not one of several that are joined."""
        return not any(other is not record and other.fork == record.fork for other in self._open.values())

    def _parents(
        self, messages: Sequence[int], prompt: Prompt, record: Record, predecessor: Record | None
    ) -> list[Record]:
        known = self._outputs
        new = messages[prompt.shared :] if predecessor is not None else messages
        content = [known[message] for message in new if message in known] if known else []
        if predecessor is None:
            by_time = self._spawned_by(record)
            if not content:
                return by_time
            behind = 0
            for parent in by_time:
                behind |= parent.behind
            # What is used was said long ago, and all since waited for one another: the last is what it waits for too.
            if not self._running and all(parent.bit & behind for parent in content):
                return by_time
            return content
        said = [other for other in content if not other.bit & predecessor.behind]
        joined = self._joined(predecessor)
        if said:
            used = 0
            for other in said:
                used |= other.bit
            joined = [other for other in joined if other.behind & used]
        return [predecessor, *said, *joined]

    def _joined(self, predecessor: Record) -> list[Record]:
        """Open calls that the predecessor's chain caused, and that it has not waited for yet."""
        found: list[Record] = []
        for other in self._open.values():
            if other.ended_at <= predecessor.begun_at or other is predecessor:
                continue
            if not (other.behind & predecessor.bit or other.fork & predecessor.chain):
                continue
            # One that asked for tools goes on itself, unless it handed over and there is nobody else to go on.
            handed = other is self._last and not self._running and other.behind & predecessor.bit
            if handed or not other.asked_tools:
                found.append(other)
        return found

    def _spawned_by(self, record: Record) -> list[Record]:
        """What a call with no relation in content waited for: the last end, and all ends that belong to it."""
        last = next((other for other in reversed(self._open.values())), None)
        if last is None:
            beside = next((other for other in reversed(self._running.values()) if other.look == record.look), None)
            if beside is not None:
                return self._of(beside.fork)
            return [] if self._last is None else [self._last]
        if last.look == record.look:
            running = any(other.fork == last.fork for other in self._running.values())
            if running or (last.fork and last.asked_tools and record.prompt_tokens < last.tokens):
                return self._of(last.fork)
        return [
            other
            for other in self._open.values()
            if other is last
            or (not other.asked_tools and other.fork == last.fork and other.ended_at > last.root_begun_at)
        ]

    def _of(self, mask: int) -> list[Record]:
        return [record for record in self._calls.values() if record.bit & mask] if mask else []

    def _enter(self, record: Record, parents: list[Record], predecessor: Record | None) -> None:
        parents = _reduced(parents)
        record.predecessor = predecessor
        record.behind = record.chain = record.bit
        for parent in parents:
            record.behind |= parent.behind
            parent.num_children += 1
            if parent.continued_at < 0:
                parent.continued_at = self._num_ends
                self._closing.append(parent)
            record.fork |= parent.bit
        if predecessor is not None:
            predecessor.extended = True
            record.turn = predecessor.turn + 1
            record.chain |= predecessor.chain
            record.fork = predecessor.fork
            record.root_begun_at = predecessor.root_begun_at
        record.parents = tuple(sorted(parents, key=lambda parent: parent.index))
        self._next_index += 1
        self._calls[record.call_id] = record
        self._running[record.call_id] = record

    def _forget(self) -> None:
        """The older half."""
        old = [record for record in self._calls.values() if record.index < MAX_CALLS]
        for record in old:
            del self._calls[record.call_id]
            self._running.pop(record.call_id, None)
            self._open.pop(record.call_id, None)
            if self._outputs.get(record.output) is record:
                del self._outputs[record.output]
            record.parents, record.predecessor = (), None
        gone = {id(record) for record in old}
        self._prompts.forget(gone)
        self._closing = [record for record in self._closing if id(record) not in gone]
        self._threads = {key: record for key, record in self._threads.items() if id(record) not in gone}
        if self._last is not None and id(self._last) in gone:
            self._last = None
        for record in self._calls.values():
            record.index -= MAX_CALLS
            record.behind >>= MAX_CALLS
            record.chain >>= MAX_CALLS
            record.fork >>= MAX_CALLS
            record.parents = tuple(parent for parent in record.parents if id(parent) not in gone)
            if record.predecessor is not None and id(record.predecessor) in gone:
                record.predecessor = None


def _reduced(parents: list[Record]) -> list[Record]:
    """Without those that another one waited for already."""
    if len(parents) < 2:
        return parents
    kept: list[Record] = []
    covered = 0
    for parent in sorted(set(parents), key=lambda parent: -parent.index):
        if not parent.bit & covered:
            kept.append(parent)
            covered |= parent.behind
    return kept


def prompt_of(messages: Sequence[int], roles: str) -> Prompt:
    """A prompt to compare with others."""
    num_head = len(roles) - len(roles.lstrip("ts"))
    packed = messages if isinstance(messages, array) else array("Q", messages)
    return Prompt(packed.tobytes(), max(1, num_head), packed.itemsize)
