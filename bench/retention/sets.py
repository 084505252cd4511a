"""Which programs of which trace sets are replayed, and how coarsely.

Blocks are larger than an engine's, and large sets are sampled (by a fixed seed, or the head of what has arrivals), so
that all of it takes minutes. The two Azure sets share no prefixes: there every policy costs the same, and they are left
out; so is `tenants_servegen`, which holds no programs.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sim import trace
from sim.trace import Program


@dataclass(frozen=True, slots=True)
class TraceSet:
    """What is taken of a file."""

    name: str
    block_tokens: int
    most_programs: int
    head_seconds: float = 0.0
    """Only programs that arrived by then; 0: a sample of all."""


SETS = (
    TraceSet("weka_claude_code", 512, 64),
    TraceSet("agentcgroup_claude_code", 512, 100),
    TraceSet("tau2_sierra", 128, 120),
    TraceSet("taubench_airline_gpt4o", 128, 148),
    TraceSet("chatdev_warehouse", 64, 64),
    TraceSet("whowhen_groupchat", 64, 106),
    TraceSet("whowhen_magentic", 128, 52),
    TraceSet("lmcache_miniswe", 128, 16),
    TraceSet("dynamo_pi_subagents", 16, 1),
    TraceSet("mooncake_conversation", 512, 10_000, head_seconds=900.0),
    TraceSet("mooncake_toolagent_head1000", 512, 10_000),
    TraceSet("tot_gpt4", 32, 40),
)


def programs(directory: Path, chosen: TraceSet) -> Sequence[Program]:
    """The programs, in the file's order."""
    path = directory / f"{chosen.name}.jsonl.gz"
    if chosen.head_seconds:
        found = [program for program in trace.read(path) if (program.arrival_s or 0.0) < chosen.head_seconds]
        return list(islice(found, chosen.most_programs))
    found = list(trace.read(path))
    if len(found) <= chosen.most_programs:
        return found
    numbers = random.Random(f"sets/{chosen.name}").sample(range(len(found)), chosen.most_programs)
    return [found[number] for number in sorted(numbers)]
