"""Simulate programs on a cluster under a policy: what everything else here is for."""

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any, Literal

from services.scheduler.config import SchedulerSection
from services.worker.preemption import Preemption
from sim.faults import Fault
from sim.outcome import Outcome
from sim.trace import Program
from sim.world import World

Workflow = Literal["", "cold", "warm"]


@dataclass(frozen=True, slots=True)
class Setup:
    """A cluster under a policy."""

    profile: str
    """Model and device of its engines: services/worker/simulated/profiles.json."""
    num_workers: int
    policy: str = "legato"
    scheduler: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Other settings of [scheduler]; so slots can be filled one by one."""
    kv_tokens: int = 0
    """KV cache of each engine; 0: the profile's."""
    block_size: int = 256
    """Tokens in a block. Coarser than an engine's, so that long contexts are cheap (see README.md)."""
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048
    preemption: Preemption | None = None
    """In the engines, by the levels that orderings give; None: only for want of blocks. It takes calls that wait in the
    engine: `lookahead_calls` of the scheduler says how many."""
    swap: bool = False
    """What preempted calls held is kept on the host, and brought back rather than computed again."""
    dram_bytes: int = 0
    """Of the KV pool beside each engine; 0: there is none."""
    ssd_bytes: int = 0
    """Of its disk tier; 0: there is none."""
    retention: str = "density"
    """What it keeps: a file of services/kvpool/retention."""
    prefetch_chance: float = 0.0
    """What it has on disk alone comes back so early that its thread returns sooner with this chance; 0: when it is
    placed."""
    pool_forecasts: bool = True
    """It hears what a workflow service foresees."""
    network_bytes_per_second: float = 12.5e9
    """From one pool into another: 100 Gbit/s."""
    ssd_read_bytes_per_second: float = 6e9
    ssd_write_bytes_per_second: float = 3e9
    oracle: bool = False
    """The scheduler is told the truth about every call."""
    workflow: Workflow = ""
    """A workflow service foresees calls; "cold": it knows nothing at the start, "warm": all of `history`."""
    history: Sequence[Program] = ()
    """Programs that ended before the run; none of its own."""
    network_seconds: float = 0.0005
    """One way, between any two services."""
    direct: bool = False
    """Calls go to engines at once and queue there, as behind a plain router; no policy is asked."""
    router: str = "session"
    """Which, then: one of sim/router.py."""
    report_seconds: float = 0.05
    """Workers tell the scheduler about themselves at most so often."""
    leap_seconds: float = 1.0
    """Engine steps in which no call comes, goes or is told are taken as one, up to so many seconds; calls see no
    difference, but the scheduler hears of load and cache that much later. 0: every step by itself."""

    def section(self) -> SchedulerSection:
        """Of the scheduler. Raises ValidationError, which is a ValueError."""
        return SchedulerSection(policy=self.policy, **self.scheduler)


def simulate(
    programs: Iterable[Program],
    setup: Setup,
    *,
    seed: int = 1,
    concurrency: int = 0,
    faults: Sequence[Fault] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Run the programs, which are in order of arrival, to their end.

    `concurrency`: so many live at a time (closed loop), however early they could arrive; 0: they arrive when they do.
    `progress` hears how many programs have ended, and of how many (0: not known).
    """
    if isinstance(programs, Sequence):
        programs = sorted(programs, key=lambda program: program.arrival_s or 0.0)
    total = len(programs) if isinstance(programs, Sized) else 0
    world = World(setup, programs, concurrency=concurrency, faults=faults)
    return world.run(None if progress is None else lambda done: progress(done, total))
