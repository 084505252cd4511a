"""Agents with tool gaps on engines whose own caches hold a few contexts only: what the pool makes of it.

24 programs at once, 20 turns each, contexts of 800 to 2,400 tokens; two engines of 12 MiB of KV each (about four
contexts); tools as slow as Bash in agentcgroup_claude_code, divided by 3. The same programs with and without the pool.
"""

import dataclasses
import random
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from bench import live, stack
from sim.programs.draft import Draft
from sim.programs.laws import Scale
from sim.trace import Program

NUM_PROGRAMS = 24
NUM_TURNS = 20
MODEL = "tiny-llama"
SETTINGS: dict[str, object] = {
    "worker.engine": "vllm",
    "worker.count": 2,
    "worker.model": MODEL,
    "worker.max_num_seqs": 4,
    "worker.max_model_len": 4096,
    "worker.kv_cache_bytes": 12 << 20,
    "gateway.http_port": 0,
    "gateway.port": 0,
    "gateway.stream_interval": 8,
    "kvpool.dram_bytes": 256 << 20,
}


def programs(seed: int) -> list[Program]:
    """All arrive at once."""
    made: list[Program] = []
    for index in range(NUM_PROGRAMS):
        draft = Draft(f"gaps-{seed}-{index:02d}", "gaps", Scale(1, 1, gaps=3), random.Random(f"{seed}/{index}"))
        prompt = [draft.shared("system", 400), draft.own(400)]
        parents: tuple[int, ...] = ()
        for turn in range(NUM_TURNS):
            tools = ("Bash",) if turn < NUM_TURNS - 1 else ()
            call, output = draft.call("main", prompt, 20, parents=parents, tools=tools)
            prompt = [*prompt, output, draft.own(64)]
            parents = (call,)
        made.append(dataclasses.replace(draft.finish(), arrival_s=0.0))
    return made


async def runs(out: Path, console: Console, seed: int = 1) -> Mapping[str, list[Program]]:
    """The programs as they ran, by name of the run: without the pool, then with it."""
    done: dict[str, list[Program]] = {}
    for name, enabled in (("engines alone", False), ("with the pool", True)):
        async with stack.running({**SETTINGS, "kvpool.enabled": enabled}, out / f"gaps-{enabled}.log") as started:
            target = live.Target(MODEL, started.base_url, started.address)
            ran = await live.run(programs(seed), target, name, console)
        done[name] = [dataclasses.replace(program, run=name) for program in ran]
    return done
