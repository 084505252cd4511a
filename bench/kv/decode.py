"""How much a decode step slows down while blocks are saved: two hosts with one worker each, one of them without a pool.

Both decode the same batch at the same time would share the cores; so they take turns, and medians are compared.
"""

import asyncio
import random
import statistics
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.kv.hosts import Worker, host
from services.common.registry.embedded import serve_embedded

ROUNDS = 7
BATCH = 8
PROMPT_TOKENS = 64
OUTPUT_TOKENS = 192


@dataclass(frozen=True, slots=True)
class Decode:
    """Seconds per step of the batch, medians of the rounds."""

    alone_seconds: float
    saving_seconds: float
    num_saved_bytes: int

    @property
    def slow_down(self) -> float:
        return self.saving_seconds / self.alone_seconds


async def measure(model_path: str, folder: Path) -> Decode:
    """Start both, and measure."""
    settings: Mapping[str, object] = {
        "worker.engine": "vllm",
        "worker.model_path": model_path,
        "worker.max_num_seqs": BATCH,
        "worker.max_model_len": 1024,
        "kvpool.dram_bytes": 512 << 20,
    }
    draw = random.Random(4)
    steps: dict[str, list[float]] = {"alone": [], "saving": []}
    async with AsyncExitStack() as stack:
        endpoint = await stack.enter_async_context(serve_embedded())
        saving = await stack.enter_async_context(host(endpoint, folder, settings, name="saving"))
        other_endpoint = await stack.enter_async_context(serve_embedded())
        alone = await stack.enter_async_context(host(other_endpoint, folder, settings, name="alone", pooled=False))
        for number in range(ROUNDS + 1):
            for name, worker in (("alone", alone.workers[0]), ("saving", saving.workers[0])):
                seconds = await _step_seconds(worker, draw, f"{name}-{number}")
                if number:  # the first one warms up
                    steps[name].append(seconds)
        status = await saving.status()
    written = sum(tier.written_bytes for tier in status.tiers)
    return Decode(statistics.median(steps["alone"]), statistics.median(steps["saving"]), written)


async def _step_seconds(worker: Worker, draw: random.Random, program_id: str) -> float:
    """Of a batch that decodes. Every sequence fills a block each 32 steps, so some block is saved every fourth step."""
    prompts = [[draw.randrange(20, 500) for _ in range(PROMPT_TOKENS)] for _ in range(BATCH)]
    answers = await asyncio.gather(
        *(worker.call(prompt, OUTPUT_TOKENS, program_id=f"{program_id}-{i}") for i, prompt in enumerate(prompts))
    )
    return statistics.median((one.seconds - one.ttft_seconds) / (OUTPUT_TOKENS - 1) for one in answers)
