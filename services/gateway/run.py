"""The calls of one request, and their output in the order in which it comes."""

import asyncio
from collections import deque
from collections.abc import Callable

from legato.v1 import call_pb2
from services.gateway.call import Call
from services.gateway.piece import Ending, Piece, Said


class Run:
    """One reader takes the output of all calls with `next`. Nothing is queued: each call merges what waits."""

    def __init__(self, model: str, began: float) -> None:
        self.model = model
        self.began = began
        self.endings: list[Ending] = []
        """Of the calls whose output was taken whole, in the order in which they ended."""
        self.listener: Callable[[int, Said], None] | None = None
        """Hears what the calls said whose output was taken whole."""
        self._usage = call_pb2.Usage()
        self._calls: list[Call] = []
        self._prompted: set[int] = set()
        self._open: deque[int] = deque()
        self._woken = asyncio.Event()
        self._nudged = False

    @property
    def num_calls(self) -> int:
        return len(self._calls)

    @property
    def over(self) -> bool:
        """Whether all output was taken."""
        return not self._open

    @property
    def eta(self) -> call_pb2.Eta | None:
        """When the program is expected to be complete, from now; None while nothing is known."""
        return next((eta for call in self._calls if (eta := call.eta) is not None), None)

    @property
    def drawn_seed(self) -> int | None:
        """The first call's, where it was drawn here and not given."""
        return self._calls[0].drawn_seed if self._calls else None

    def add(self, call: Call, *, counts_prompt: bool) -> None:
        """`counts_prompt`: it is the first call with this prompt, of which usage speaks once."""
        if counts_prompt:
            self._prompted.add(len(self._calls))
        self._open.append(len(self._calls))
        self._calls.append(call)

    def wake(self) -> None:
        """Some call has something new."""
        self._woken.set()

    def nudge(self) -> None:
        """Have `next` return, with or without a piece."""
        self._nudged = True
        self._woken.set()

    async def next(self) -> tuple[int, Piece] | None:
        """The next piece and whose it is; None when nudged. Not to be called when `over`. Raises Failure.

        Who must not wait for long sets a timer that nudges: one for many pieces, where a timeout is one for each.
        """
        while True:
            for _ in range(len(self._open)):
                index = self._open[0]
                self._open.rotate(-1)  # so that a call with much to say leaves the others their turn
                if piece := self._calls[index].take():
                    if piece.ending:
                        self._open.remove(index)
                        self._count(index, piece.ending)
                        if self.listener and (said := self._calls[index].said):
                            self.listener(index, said)
                    return index, piece
            if self._nudged:
                self._nudged = False
                return None
            self._woken.clear()
            await self._woken.wait()

    def usage(self) -> call_pb2.Usage:
        """Of all calls that ended."""
        return self._usage

    def _count(self, index: int, ending: Ending) -> None:
        self.endings.append(ending)
        self._usage.completion_tokens += ending.usage.completion_tokens
        self._usage.reasoning_tokens += ending.usage.reasoning_tokens
        if index in self._prompted:
            self._usage.prompt_tokens += ending.usage.prompt_tokens
            self._usage.cached_tokens += ending.usage.cached_tokens

    def close(self) -> None:
        """Abort what still runs."""
        for call in self._calls:
            call.close()
