"""Whole blocks between a GPU's cache and the pool's arena, which is registered with CUDA as pinned memory.

A block's layers lie apart in vLLM's cache and together in the arena. A kernel gathers (scatters) them at the memory's
speed into a buffer on the GPU, and one transfer of the copy engine moves each run of neighbouring slots. Saves and
loads have a stream each, so neither waits for the model's; a save begins after the event that `mark` recorded behind
the forward pass. Requests run when all their layers are loaded: while they wait others compute, so loading layer by
layer would save time only on an idle GPU.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import torch

from services.common import kv
from services.worker.kv.copy import Layout, layout

_STAGING_BYTES = 32 * 1024 * 1024
_DEFAULT = 0  # cudaHostRegisterDefault


class CudaCopies:
    """`Copies` for one GPU."""

    def __init__(self, kv_caches: Mapping[str, torch.Tensor], num_shards: int) -> None:
        where = layout(kv_caches)
        self._device = where.storage.device
        self._cache = _words(where)
        self._shard_bytes = where.num_layers * where.page_bytes
        self._slot_bytes = self._shard_bytes * num_shards
        self._most = max(1, _STAGING_BYTES // self._shard_bytes)
        self._saves, self._loads = _Lane(self._cache, self._most), _Lane(self._cache, self._most)
        self._pinning = threading.Lock()
        self._arenas: dict[int, torch.Tensor] = {}

    @property
    def shard_bytes(self) -> int:
        return self._shard_bytes

    def mark(self) -> object:
        event = torch.cuda.Event()
        event.record()
        return event

    def save(self, arena: kv.Arena, offsets: Sequence[int], block_ids: Sequence[int], after: object) -> list[int]:
        lane, host = self._saves, self._pinned(arena)
        checksums: list[int] = []
        with torch.cuda.device(self._device), torch.cuda.stream(lane.stream):
            lane.stream.wait_event(cast(torch.cuda.Event, after))
            for start in range(0, len(offsets), self._most):
                part = slice(start, start + self._most)
                count = len(block_ids[part])
                staged = lane.staging[0][:count]
                torch.index_select(self._cache, 0, self._indices(block_ids[part]), out=staged)
                data = staged.view(torch.uint8).view(count, self._shard_bytes)
                for first, last in self._runs(offsets[part]):
                    begin = offsets[start + first]
                    target = host[begin : begin + (last - first) * self._shard_bytes]
                    target.view(last - first, -1).copy_(data[first:last], non_blocking=True)
                lane.stream.synchronize()
                checksums += [kv.checksum(arena[at : at + self._shard_bytes]) for at in offsets[part]]
        return checksums

    def load(self, arena: kv.Arena, offsets: Sequence[int], block_ids: Sequence[int], checksums: Sequence[int]) -> int:
        lane, host = self._loads, self._pinned(arena)
        with torch.cuda.device(self._device), torch.cuda.stream(lane.stream):
            copied: list[tuple[int, torch.cuda.Event]] = []
            for turn, start in enumerate(range(0, len(offsets), self._most)):
                part = slice(start, start + self._most)
                count = len(block_ids[part])
                staged = lane.staging[turn % 2][:count]
                data = staged.view(torch.uint8).view(count, self._shard_bytes)
                for first, last in self._runs(offsets[part]):
                    begin = offsets[start + first]
                    source = host[begin : begin + (last - first) * self._shard_bytes]
                    data[first:last].copy_(source.view(last - first, -1), non_blocking=True)
                self._cache.index_copy_(0, self._indices(block_ids[part]), staged)
                event = torch.cuda.Event()
                event.record(lane.stream)
                copied.append((start, event))
                # The part before this one is checked while this one is on its way.
                if turn and (wrong := self._wrong(arena, offsets, checksums, *copied[-2])) is not None:
                    lane.stream.synchronize()
                    return wrong
            if copied and (wrong := self._wrong(arena, offsets, checksums, *copied[-1])) is not None:
                return wrong
        return len(offsets)

    def _wrong(
        self,
        arena: kv.Arena,
        offsets: Sequence[int],
        checksums: Sequence[int],
        start: int,
        copied: torch.cuda.Event,
    ) -> int | None:
        """The first block of a part whose bytes in the arena are wrong after they were copied."""
        copied.synchronize()
        for i in range(start, min(start + self._most, len(offsets))):
            if kv.checksum(arena[offsets[i] : offsets[i] + self._shard_bytes]) != checksums[i]:
                return i
        return None

    def _indices(self, block_ids: Sequence[int]) -> torch.Tensor:
        return torch.tensor(block_ids, dtype=torch.int64).to(self._device)

    def _runs(self, offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
        """(from, to) of shards that follow one another without another rank's between them."""
        start = 0
        for i in range(1, len(offsets) + 1):
            if i == len(offsets) or offsets[i] != offsets[i - 1] + self._shard_bytes:
                yield start, i
                start = i

    def _pinned(self, arena: kv.Arena) -> torch.Tensor:
        """The arena as a tensor that the copy engines reach. Raises ValueError for a place outside when used."""
        address = arena.ctypes.data
        with self._pinning:
            if address not in self._arenas:
                cudart = cast(Any, torch.cuda).cudart()
                for other in list(self._arenas):  # of an earlier life of the pool
                    torch.cuda.synchronize(self._device)
                    cudart.cudaHostUnregister(other)
                    del self._arenas[other]
                error = cudart.cudaHostRegister(address, arena.nbytes, _DEFAULT)
                if int(error) != 0:
                    raise RuntimeError(f"the pool's memory cannot be pinned: CUDA error {error}")
                self._arenas[address] = cast(Any, torch).from_numpy(arena)
            return self._arenas[address]


class _Lane:
    """A stream and its buffers."""

    def __init__(self, cache: torch.Tensor, count: int) -> None:
        self.stream = torch.cuda.Stream(cache.device)
        self.staging = [torch.empty((count, *cache.shape[1:]), dtype=cache.dtype, device=cache.device) for _ in "ab"]


def _words(where: Layout) -> torch.Tensor:
    """(blocks, layers, words of 8 bytes), for kernels that would otherwise move single bytes. Raises ValueError."""
    parts = (where.start, where.block_stride, where.layer_stride, where.page_bytes)
    if any(part % 8 for part in parts):
        raise ValueError("the cache's pages are not aligned to 8 bytes")
    start, block, layer, page = (part // 8 for part in parts)
    num_words = where.storage.numel() // 8
    words = where.storage[: num_words * 8].view(torch.int64)
    return words.as_strided((where.num_blocks, where.num_layers, page), (block, layer, 1), start)
