"""The calls that wait for room in the engine, the most urgent first."""

import heapq

from services.worker.simulated.call import Call


class Waiting:
    """A heap by (priority, arrival)."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Call]] = []
        self._stuck: tuple[Call, int, int] | None = None
        """The first call when it did not fit, and the blocks and slots that were free then."""

    def __len__(self) -> int:
        return len(self._heap)

    @property
    def calls(self) -> list[Call]:
        """In no order."""
        return [call for _, _, call in self._heap]

    @property
    def first(self) -> Call:
        return self._heap[0][2]

    def push(self, call: Call) -> None:
        heapq.heappush(self._heap, (*call.order, call))

    def pop(self) -> Call:
        return heapq.heappop(self._heap)[2]

    def remove(self, call: Call) -> None:
        """Take out a call, which need not be the first, or have the priority with which it came."""
        self._heap = [entry for entry in self._heap if entry[2] is not call]
        heapq.heapify(self._heap)

    def stick(self, num_blocks: int, num_slots: int) -> None:
        """Remember that the first call did not fit into what is free."""
        self._stuck = (self.first, num_blocks, num_slots)

    def unstick(self) -> None:
        """Forget it: something else has changed."""
        self._stuck = None

    def stuck(self, num_blocks: int, num_slots: int) -> bool:
        """Whether the first call is known not to fit into what is free now."""
        if self._stuck is None:
            return False
        call, blocks, slots = self._stuck
        return call is self.first and num_blocks <= blocks and num_slots <= slots
