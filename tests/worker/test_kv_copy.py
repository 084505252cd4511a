"""Blocks between a cache laid out as vLLM lays it out and an arena."""

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common import kv
from services.worker.kv.copy import CpuCopies, layout, runs

if TYPE_CHECKING:
    import torch

pytestmark = [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]  # importing torch warns of its own affairs

LAYERS, BLOCKS, TOKENS, WIDTH = 3, 16, 4, 8
PAGE = TOKENS * WIDTH * 2


def caches(blocks_first: bool) -> "dict[str, torch.Tensor]":
    torch = pytest.importorskip("torch")
    content = torch.arange(LAYERS * BLOCKS * TOKENS * WIDTH, dtype=torch.int32).to(torch.bfloat16)
    shape = (BLOCKS, LAYERS, TOKENS, WIDTH) if blocks_first else (LAYERS, BLOCKS, TOKENS, WIDTH)
    whole = content.view(shape)
    if blocks_first:
        whole = whole.transpose(0, 1)
    return {f"layer {i}": whole[i] for i in range(LAYERS)}


def bytes_of(tensor: "torch.Tensor") -> bytes:
    torch = pytest.importorskip("torch")
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


@pytest.mark.parametrize("blocks_first", [False, True])
@pytest.mark.parametrize("num_shards", [1, 2])
@settings(max_examples=60)
@given(data=st.data())
def test_what_is_saved_comes_back(blocks_first: bool, num_shards: int, data: st.DataObject) -> None:
    tensors = caches(blocks_first)
    copies = CpuCopies(tensors, num_shards)
    block_ids = data.draw(st.lists(st.integers(0, BLOCKS - 1), unique=True, min_size=1))
    slots = data.draw(st.permutations(range(BLOCKS)))[: len(block_ids)]
    if data.draw(st.booleans()):
        block_ids, slots = sorted(block_ids, reverse=data.draw(st.booleans())), sorted(slots)
    rank = data.draw(st.integers(0, num_shards - 1))
    offsets = [(slot * num_shards + rank) * copies.shard_bytes for slot in slots]
    arena = np.zeros(BLOCKS * num_shards * copies.shard_bytes, np.uint8)
    checksums = copies.save(arena, offsets, block_ids, copies.mark())
    for offset, block_id, found in zip(offsets, block_ids, checksums, strict=True):
        shard = arena[offset : offset + copies.shard_bytes]
        assert shard.tobytes() == b"".join(bytes_of(tensor[block_id]) for tensor in tensors.values())
        assert found == kv.checksum(shard)
    assert np.count_nonzero(arena) <= len(block_ids) * copies.shard_bytes
    before = [bytes_of(tensor) for tensor in tensors.values()]
    for tensor in tensors.values():
        tensor[block_ids] = 0
    assert copies.load(arena, offsets, block_ids, checksums) == len(block_ids)
    assert [bytes_of(tensor) for tensor in tensors.values()] == before
    wrong = data.draw(st.integers(0, len(block_ids) - 1))
    arena[offsets[wrong] + copies.shard_bytes - 1] ^= 1
    assert copies.load(arena, offsets, block_ids, checksums) == wrong


def test_a_place_outside_of_the_arena_is_refused() -> None:
    copies = CpuCopies(caches(False), 1)
    arena = np.zeros(4 * copies.shard_bytes, np.uint8)
    for offset in (4 * copies.shard_bytes, 2**63, arena.size - 1):
        with pytest.raises((TypeError, ValueError, OverflowError)):
            copies.save(arena, [offset], [0], None)


def test_a_cache_whose_layers_differ_is_refused() -> None:
    tensors = caches(False)
    tensors["layer 0"] = tensors["layer 0"][:, :2]
    with pytest.raises(ValueError, match="not alike"):
        layout(tensors)


@given(st.lists(st.integers(0, 9), min_size=1), st.data(), st.integers(1, 5))
def test_runs_cover_all_blocks_in_order(block_ids: list[int], data: st.DataObject, longest: int) -> None:
    slots = data.draw(st.lists(st.integers(0, 9), min_size=len(block_ids), max_size=len(block_ids)))
    offsets = [slot * 10 for slot in slots]
    found = list(runs(offsets, block_ids, 10, longest))
    assert [i for start, end in found for i in range(start, end)] == list(range(len(block_ids)))
    for start, end in found:
        assert 1 <= end - start <= longest
        assert [offset - offsets[start] for offset in offsets[start:end]] == [10 * i for i in range(end - start)]
        steps = {after - before for before, after in itertools.pairwise(block_ids[start:end])}
        assert steps in (set(), {1}, {-1})
