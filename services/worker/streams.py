"""What waits to be sent: outputs for a gateway, news for a watcher.

Neither grows while its reader is slow: outputs of one call are merged into one, so a stream holds at most one output
per live call; of the cache's changes only what the reader does not know yet is kept, at most each block once.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Sequence

from legato.v1 import call_pb2, worker_pb2
from services.common.errors import Failure


class OutputStream:
    """Outputs on their way to one gateway. `live`: the engine's key of each live slot."""

    def __init__(self) -> None:
        self.live: dict[int, int] = {}
        self._waiting: dict[int, worker_pb2.CallOutput] = {}
        self._changed = asyncio.Event()
        self._closed = False
        self._failure: Failure | None = None

    def put(self, slot: int, output: worker_pb2.CallOutput) -> None:
        """Add an output of a slot. The stream takes the message over."""
        waiting = self._waiting.get(slot)
        if waiting is None:
            output.slot = slot
            self._waiting[slot] = output
        else:
            merge(waiting, output)
        self._changed.set()

    def close(self) -> None:
        """No more calls will come: end once the live ones have."""
        self._closed = True
        self._changed.set()

    def fail(self, failure: Failure) -> None:
        """End now, with an error."""
        self._failure = failure
        self._changed.set()

    async def take(self) -> worker_pb2.GenerateResponse | None:
        """Wait for outputs and take all there are; None at the end. Raises the failure that was set."""
        while not self._waiting:
            if self._failure is not None:
                raise self._failure
            if self._closed and not self.live:
                return None
            self._changed.clear()
            await self._changed.wait()
        batch = worker_pb2.GenerateResponse(outputs=self._waiting.values())
        self._waiting.clear()
        return batch


def merge(first: worker_pb2.CallOutput, second: worker_pb2.CallOutput) -> None:
    """Append to an output the next one of the same call."""
    first.token_ids.extend(second.token_ids)
    first.text += second.text
    first.reasoning += second.reasoning
    first.logprobs.extend(second.logprobs)
    for piece in second.tool_calls:
        _append(first, piece)
    if second.HasField("finish"):
        first.finish.CopyFrom(second.finish)


def _append(output: worker_pb2.CallOutput, piece: call_pb2.ToolCall) -> None:
    last = output.tool_calls[-1] if output.tool_calls else None
    if last is not None and last.index == piece.index and not piece.id and not piece.name:
        last.arguments += piece.arguments
    else:
        output.tool_calls.append(piece)


class Watcher:
    """News on its way to one watcher, of that term."""

    def __init__(self, first: worker_pb2.WatchResponse, term: int = 0) -> None:
        self.term = term
        self._first: worker_pb2.WatchResponse | None = first
        self._description: worker_pb2.WorkerDescription | None = None
        self._load: worker_pb2.Load | None = None
        self._blocks: dict[int, bool] = {}
        """Blocks that came (True) or left (False) since the last response."""
        self._reset = False
        self._failure: Failure | None = None
        self._urgent = asyncio.Event()
        self._changed = asyncio.Event()
        self._changed.set()

    def describe(self, description: worker_pb2.WorkerDescription) -> None:
        """The worker is something else now. `description` is read when the response is made."""
        self._description = description
        self._changed.set()

    def load(self, load: worker_pb2.Load) -> None:
        """The load has changed. `load` is read when the response is made."""
        self._load = load
        self._changed.set()

    def cache(self, stored: Sequence[int], removed: Sequence[int], reset: bool) -> None:
        """The cache has changed."""
        if reset:
            self._reset = True
            self._blocks.clear()
        self._toggle(stored, True)
        self._toggle(removed, False)
        self._changed.set()

    def fail(self, failure: Failure) -> None:
        """End now."""
        self._failure = failure
        self._urgent.set()
        self._changed.set()

    def hurry(self) -> None:
        """What has changed now should be heard at once."""
        self._urgent.set()

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until there is something urgent, as a failure is."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._urgent.wait()

    async def take(self) -> worker_pb2.WatchResponse:
        """Wait for news. Raises the failure that was set."""
        await self._changed.wait()
        self._changed.clear()
        self._urgent.clear()
        if self._failure is not None:
            raise self._failure
        if self._first is not None:
            first, self._first = self._first, None
            if self._description is not None or self._load is not None or self._blocks or self._reset:
                self._changed.set()
            return first
        response = worker_pb2.WatchResponse(description=self._description, load=self._load)
        self._description = None
        if self._blocks or self._reset:
            response.cache.reset = self._reset
            response.cache.stored.extend(block for block, came in self._blocks.items() if came)
            response.cache.removed.extend(block for block, came in self._blocks.items() if not came)
            self._blocks.clear()
            self._reset = False
        return response

    def _toggle(self, blocks: Iterable[int], came: bool) -> None:
        for block in blocks:
            if self._blocks.get(block) is (not came) and not self._reset:
                del self._blocks[block]  # it came and left, or left and came, since the watcher heard
            else:
                self._blocks[block] = came
