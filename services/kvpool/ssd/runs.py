"""Neighbours: blocks that lie next to each other on disk and can be moved by one call to the kernel."""

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass

ALIGN_BYTES = 4096
"""What direct I/O needs of offsets, lengths and memory, on any disk."""
CALL_BYTES = 8 * 1024 * 1024
"""Most in one call to the kernel (but for a single block)."""
_MOST_BUFFERS = 1024  # IOV_MAX


@dataclass(frozen=True, slots=True)
class Place:
    """Where a block's bytes are on both sides."""

    index: int
    """Among the blocks asked for."""
    arena_offset: int
    disk_offset: int
    num_bytes: int

    @property
    def aligned(self) -> bool:
        """Direct I/O can move it."""
        return not (self.arena_offset | self.disk_offset | self.num_bytes) % ALIGN_BYTES


def runs(places: Iterable[Place]) -> Generator[list[Place]]:
    """Neighbours among the places."""
    run: list[Place] = []
    num_bytes = 0
    for place in sorted(places, key=lambda place: place.disk_offset):
        joins = run and run[-1].disk_offset + run[-1].num_bytes == place.disk_offset
        if run and not (joins and num_bytes + place.num_bytes <= CALL_BYTES and len(run) < _MOST_BUFFERS):
            yield run
            run, num_bytes = [], 0
        run.append(place)
        num_bytes += place.num_bytes
    if run:
        yield run


def buffers(memory: memoryview, run: Sequence[Place]) -> list[memoryview]:
    """The run's bytes in memory; what is contiguous there too is one buffer."""
    spans: list[list[int]] = []
    for place in run:
        if spans and spans[-1][1] == place.arena_offset:
            spans[-1][1] += place.num_bytes
        else:
            spans.append([place.arena_offset, place.arena_offset + place.num_bytes])
    return [memory[start:end] for start, end in spans]


def behind(parts: Sequence[memoryview], num_bytes: int) -> list[memoryview]:
    """What is left of the buffers after the first `num_bytes` were moved."""
    left: list[memoryview] = []
    for part in parts:
        if num_bytes < len(part):
            left.append(part[num_bytes:])
        num_bytes = max(0, num_bytes - len(part))
    return left
