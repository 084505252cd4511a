"""Whole blocks between an engine's cache and the pool's arena.

vLLM's cache is one allocation in which each layer of each block is one run of bytes: layer l of block b begins at
start + b * block_stride + l * layer_stride. In the arena a block's shard is all its layers one after another, so it
is one run for whoever moves it on. What lies inside a layer's run is the attention kernel's affair.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import numpy.typing as npt

from services.common import kv

if TYPE_CHECKING:
    import torch

_RUN_BYTES = 1024 * 1024
"""Copied at once before the checksums are made, so that these find the bytes in the processor's cache."""


class Copies(Protocol):
    """Copies blocks. Not for several threads at once, but saves and loads may be in two."""

    @property
    def shard_bytes(self) -> int:
        """Of a block, as the arena holds it."""
        ...

    def mark(self) -> object:
        """A point in the engine's work; what is computed before it can be copied `after` it."""
        ...

    def save(self, arena: kv.Arena, offsets: Sequence[int], block_ids: Sequence[int], after: object) -> list[int]:
        """Cache to arena. Offsets are the shards' own. Returns the checksums."""
        ...

    def load(self, arena: kv.Arena, offsets: Sequence[int], block_ids: Sequence[int], checksums: Sequence[int]) -> int:
        """Arena to cache. Returns how many leading blocks are there; the next one's checksum was wrong.

        What was read is checked, after it was copied: a block that is overwritten meanwhile is found.
        """
        ...


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the blocks lie in the cache's allocation, in bytes."""

    storage: "torch.Tensor"
    """One dimension of bytes."""
    start: int
    num_blocks: int
    num_layers: int
    block_stride: int
    layer_stride: int
    page_bytes: int
    """Of one layer of one block."""

    def view(self) -> "torch.Tensor":
        """(blocks, layers, bytes)."""
        shape = (self.num_blocks, self.num_layers, self.page_bytes)
        return self.storage.as_strided(shape, (self.block_stride, self.layer_stride, 1), self.start)


def layout(kv_caches: Mapping[str, "torch.Tensor"]) -> Layout:
    """Of vLLM's per-layer views (block first). Raises ValueError where layers are not alike or not evenly spaced."""
    import torch

    layers = {tensor.data_ptr(): tensor for tensor in kv_caches.values()}  # some models' layers share one
    pointers, tensors = list(layers), list(layers.values())
    first = tensors[0]
    size = first.element_size()
    page = first[0]
    steps = {after - before for before, after in itertools.pairwise(pointers)} or {0}
    alike = {(tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors}
    storages = {tensor.untyped_storage().data_ptr() for tensor in tensors}
    if len(steps) > 1 or min(steps) < 0 or len(alike) > 1 or len(storages) > 1 or not _dense(page):
        raise ValueError("the layers of this cache are not alike or not evenly spaced")
    storage = torch.empty(0, dtype=torch.uint8, device=first.device)
    cast(Any, storage).set_(first.untyped_storage())
    return Layout(
        storage=storage,
        start=pointers[0] - next(iter(storages)),
        num_blocks=first.shape[0],
        num_layers=len(tensors),
        block_stride=first.stride(0) * size,
        layer_stride=steps.pop(),
        page_bytes=page.numel() * size,
    )


def _dense(page: "torch.Tensor") -> bool:
    """Whether its elements fill one run of memory, in whatever order."""
    expected = 1
    for stride, extent in sorted(zip(page.stride(), page.shape, strict=True)):
        if extent > 1 and stride != expected:
            return False
        expected *= extent
    return True


def runs(offsets: Sequence[int], block_ids: Sequence[int], slot_bytes: int, longest: int) -> Iterator[tuple[int, int]]:
    """(from, to): at most `longest` neighbours, upwards in the arena and upwards or downwards in the cache.

    vLLM frees a request's blocks from its tail, so those of the next one often come downwards.
    """
    start = 0
    step: int | None = None
    for i in range(1, len(block_ids) + 1):
        if i < len(block_ids) and i - start < longest and offsets[i] == offsets[i - 1] + slot_bytes:
            taken = block_ids[i] - block_ids[i - 1]
            if taken == step or (i - start == 1 and taken in (1, -1)):
                step = taken
                continue
        yield start, i
        start, step = i, None


class CpuCopies:
    """Where the cache is in this host's memory."""

    def __init__(self, kv_caches: Mapping[str, "torch.Tensor"], num_shards: int) -> None:
        where = layout(kv_caches)
        self._cache = cast("npt.NDArray[np.uint8]", where.view().numpy())
        self._shape = (where.num_layers, where.page_bytes)
        self._shard_bytes = where.num_layers * where.page_bytes
        self._slot_bytes = self._shard_bytes * num_shards
        self._strides = (self._slot_bytes, where.page_bytes, 1)
        self._longest = max(1, _RUN_BYTES // self._shard_bytes)

    @property
    def shard_bytes(self) -> int:
        return self._shard_bytes

    def mark(self) -> object:
        return None

    def save(self, arena: kv.Arena, offsets: Sequence[int], block_ids: Sequence[int], after: object) -> list[int]:
        size, checksums = self._shard_bytes, list[int]()
        for start, end in runs(offsets, block_ids, self._slot_bytes, self._longest):
            self._shards(arena, offsets[start], end - start)[...] = self._blocks(block_ids, start, end)
            checksums += [kv.checksum(arena[at : at + size]) for at in offsets[start:end]]
        return checksums

    def load(self, arena: kv.Arena, offsets: Sequence[int], block_ids: Sequence[int], checksums: Sequence[int]) -> int:
        size = self._shard_bytes
        for start, end in runs(offsets, block_ids, self._slot_bytes, self._longest):
            self._blocks(block_ids, start, end)[...] = self._shards(arena, offsets[start], end - start)
            for i in range(start, end):
                if kv.checksum(arena[offsets[i] : offsets[i] + size]) != checksums[i]:
                    return i
        return len(block_ids)

    def _shards(self, arena: kv.Arena, offset: int, count: int) -> "npt.NDArray[np.uint8]":
        """(blocks, layers, bytes): this rank's shards of slots that follow one another. Raises for a place outside."""
        return np.ndarray((count, *self._shape), np.uint8, arena, offset, self._strides)

    def _blocks(self, block_ids: Sequence[int], start: int, end: int) -> "npt.NDArray[np.uint8]":
        """The same of a run's blocks in the cache."""
        first, last = block_ids[start], block_ids[end - 1]
        if first <= last:
            return self._cache[first : last + 1]
        return self._cache[last : first + 1][::-1]
