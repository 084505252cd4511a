"""How fast the connector moves blocks, beside what the same memory gives to a plain copy.

`measure` copies blocks laid out as vLLM lays out a small Llama's cache, with the code that the connector uses,
checksums included. In turns with it, in the same run: a copy of each block in one piece between a plain buffer and the
same places of the arena (what is possible where every block has a place of its own), and one copy of everything at
once, for which the C library uses stores that bypass the cache. Blocks come in runs, as vLLM gives them to a prompt
in a cache that is not worn, or scattered.
"""

import json
import mmap
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress

import numpy as np
import torch

from services.common import kv
from services.worker.kv.copy import CpuCopies

LAYERS, KV_HEADS, HEAD_SIZE = 4, 2, 64
CACHE_BYTES = 128 * 1024 * 1024
ROUNDS = 9
_MADV_POPULATE_WRITE = 23


def measure() -> dict[str, float]:
    """GB/s by `<block size>/<order>/<what>`, medians of the rounds, and shares of the per-block copy."""
    results: dict[str, float] = {}
    for block_size in (32, 128):
        for order in ("runs", "scattered"):
            for what, speed in _speeds(block_size, order).items():
                results[f"{block_size}/{order}/{what}"] = round(speed, 3)
    return results


def _speeds(block_size: int, order: str) -> dict[str, float]:
    page_bytes = KV_HEADS * block_size * 2 * HEAD_SIZE * 2
    block_bytes = LAYERS * page_bytes
    num_blocks = CACHE_BYTES // block_bytes
    content = torch.randint(0, 2**15, (CACHE_BYTES // 2,), dtype=torch.int16)
    cache = content.view(torch.bfloat16).view(LAYERS, num_blocks, KV_HEADS, block_size, 2 * HEAD_SIZE)
    copies = CpuCopies({f"layers.{i}": cache[i] for i in range(LAYERS)}, num_shards=1)
    arena, plain = _arena(), torch.ones(CACHE_BYTES, dtype=torch.uint8).numpy()
    block_ids = list(range(num_blocks))
    if order == "scattered":
        random.Random(1).shuffle(block_ids)
    offsets = [i * block_bytes for i in range(num_blocks)]
    slots, pieces = arena.reshape(-1, block_bytes), plain.reshape(-1, block_bytes)
    checksums = copies.save(arena, offsets, block_ids, None)

    def each(target: kv.Arena, source: kv.Arena, to_cache: bool) -> None:
        for slot, block in enumerate(block_ids):
            if to_cache:
                target[block] = source[slot]
            else:
                target[slot] = source[block]

    actions: dict[str, Callable[[], object]] = {
        "save": lambda: copies.save(arena, offsets, block_ids, None),
        "save memcpy": lambda: each(slots, pieces, False),
        "save memcpy at once": lambda: np.copyto(arena, plain),
        "load": lambda: copies.load(arena, offsets, block_ids, checksums),
        "load memcpy": lambda: each(pieces, slots, True),
        "load memcpy at once": lambda: np.copyto(plain, arena),
    }
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(ROUNDS):
        checksums[:] = copies.save(arena, offsets, block_ids, None)
        for name in ("load", "load memcpy", "load memcpy at once", "save", "save memcpy", "save memcpy at once"):
            begin = time.perf_counter()
            actions[name]()
            seconds[name].append(time.perf_counter() - begin)
    speeds = {name: CACHE_BYTES / statistics.median(taken) / 1e9 for name, taken in seconds.items()}
    for way in ("save", "load"):
        speeds[f"{way} share"] = speeds[way] / speeds[f"{way} memcpy"]
        speeds[f"{way} share of at once"] = speeds[way] / speeds[f"{way} memcpy at once"]
    return speeds


def _arena() -> kv.Arena:
    """Shared memory as the pool's, all of it there."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        os.truncate(file.fileno(), CACHE_BYTES)
        mapping = mmap.mmap(file.fileno(), CACHE_BYTES)
    with suppress(OSError):
        mapping.madvise(_MADV_POPULATE_WRITE)
    return np.frombuffer(mapping, np.uint8)


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
