"""Copies between a GPU's cache and an arena do what those of a CPU do."""

import random
from typing import Any

import numpy as np
import pytest

pytestmark = pytest.mark.gpu

LAYERS, BLOCKS, PAGE = 4, 600, 8192


@pytest.mark.parametrize("num_shards", [1, 2])
def test_what_is_saved_comes_back_and_wrong_blocks_are_found(num_shards: int) -> None:
    torch: Any = pytest.importorskip("torch")
    from services.worker.kv.copy import CpuCopies
    from services.worker.kv.cuda import CudaCopies

    def caches(device: str) -> dict[str, Any]:
        content = torch.arange(LAYERS * BLOCKS * PAGE // 2, dtype=torch.int32).to(torch.int16)
        whole = content.view(LAYERS, BLOCKS, 2, PAGE // 4).to(device)
        return {f"layer {i}": whole[i] for i in range(LAYERS)}

    on_gpu = caches("cuda")
    gpu, cpu = CudaCopies(on_gpu, num_shards), CpuCopies(caches("cpu"), num_shards)
    assert gpu.shard_bytes == cpu.shard_bytes == LAYERS * PAGE
    arenas = [np.zeros(BLOCKS * num_shards * gpu.shard_bytes, np.uint8) for _ in range(2)]
    draw = random.Random(1)
    slots, blocks = draw.sample(range(BLOCKS), BLOCKS), draw.sample(range(BLOCKS), BLOCKS)
    slots[:200] = sorted(slots[:200])
    offsets = [(slot * num_shards + num_shards - 1) * gpu.shard_bytes for slot in slots]
    checksums = gpu.save(arenas[0], offsets, blocks, gpu.mark())
    assert checksums == cpu.save(arenas[1], offsets, blocks, cpu.mark())
    assert (arenas[0] == arenas[1]).all()
    before = [tensor.clone() for tensor in on_gpu.values()]
    for tensor in on_gpu.values():
        tensor.zero_()
    assert gpu.load(arenas[0], offsets, blocks, checksums) == BLOCKS
    assert all(bool((tensor == old).all()) for tensor, old in zip(on_gpu.values(), before, strict=True))
    arenas[0][offsets[500]] ^= 1
    assert gpu.load(arenas[0], offsets, blocks, checksums) == 500
