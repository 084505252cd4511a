"""Time to the first token of a 3,900-token context on a worker that never saw it: computed, and from the other's KV.

Both are measured on the same worker in turn, so that a busy machine slows both.
"""

import random
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.kv.hosts import host
from services.common.block_hash import block_hashes
from services.common.registry.embedded import serve_embedded

CONTEXT_TOKENS = 3_900
ROUNDS = 9
BLOCK_SIZE = 32


@dataclass(frozen=True, slots=True)
class FirstToken:
    """Medians of the rounds, in seconds."""

    computed_seconds: float
    from_pool_seconds: float
    identical: int
    """Rounds in which both workers gave the same tokens."""
    rounds: int
    cached_tokens: int
    """Fewest, of those whose KV came from the pool."""

    @property
    def ratio(self) -> float:
        return self.computed_seconds / self.from_pool_seconds


async def measure(model_path: str, folder: Path) -> FirstToken:
    """Start two workers and a pool, and measure."""
    settings: Mapping[str, object] = {
        "worker.engine": "vllm",
        "worker.model_path": model_path,
        "worker.count": 2,
        "worker.max_model_len": 4096,
        "worker.max_num_batched_tokens": 4096,
        "worker.max_num_seqs": 4,
        "kvpool.dram_bytes": 256 << 20,
    }
    draw = random.Random(3)
    computed: list[float] = []
    loaded: list[float] = []
    cached: list[int] = []
    identical = 0
    async with serve_embedded() as endpoint, host(endpoint, folder, settings) as alpha:
        first, second = alpha.workers
        for worker in (first, second):
            await worker.call([draw.randrange(20, 500) for _ in range(CONTEXT_TOKENS)], 4)
        for _ in range(ROUNDS):
            prompt = [draw.randrange(20, 500) for _ in range(CONTEXT_TOKENS)]
            other = [draw.randrange(20, 500) for _ in range(CONTEXT_TOKENS)]
            wanted = await first.call(prompt, 16)
            await alpha.holds(block_hashes(prompt, BLOCK_SIZE))
            computed.append((await second.call(other, 16)).ttft_seconds)
            answer = await second.call(prompt, 16)
            loaded.append(answer.ttft_seconds)
            cached.append(answer.cached_tokens)
            identical += answer.token_ids == wanted.token_ids
    return FirstToken(statistics.median(computed), statistics.median(loaded), identical, ROUNDS, min(cached))
