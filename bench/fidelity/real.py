"""The real side: a stack, its engines' profile, its network's time, and the programs run on it."""

import dataclasses
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median

from rich.console import Console

import legato
from bench import live, stack
from bench.fidelity.cluster import Cluster
from services.local.spawn import Stack
from services.worker.calibrate.calibration import Calibration, Sizes, calibrate, pooled
from services.worker.config import WorkerSection
from services.worker.simulated.cost import Profile
from sim.programs.draft import Draft
from sim.programs.laws import Scale
from sim.trace import Program

_HOPS = 4
"""From a client's call to its first token: gateway to scheduler and back, gateway to worker and back."""
_IDLE_CALLS = 24
_FULL_PROMPT, _FULL_OUTPUT = 32, 160


@dataclass(frozen=True, slots=True)
class Machine:
    """What was measured of it before the programs ran."""

    calibration: Calibration
    network_seconds: float
    """One way between services: what is left of an idle call's first token when the engine's part is taken away."""
    shared_seconds: float
    """By which a step is longer for each of its sequences when gateway and client do their part on the same machine."""

    @property
    def profile(self) -> Profile:
        """Of the engines as they run here."""
        profile = self.calibration.profile
        return dataclasses.replace(profile, seq_ms=profile.seq_ms + 1e3 * self.shared_seconds)

    @staticmethod
    def mean(machines: Sequence["Machine"]) -> "Machine":
        """Measured several times."""
        return Machine(
            pooled([machine.calibration for machine in machines]),
            mean(machine.network_seconds for machine in machines),
            mean(machine.shared_seconds for machine in machines),
        )


@asynccontextmanager
async def running(cluster: Cluster, log: Path) -> AsyncGenerator[Stack]:
    """The stack, fresh: its caches empty, and nothing learned yet."""
    async with stack.running(cluster.settings(), log) as started:
        yield started


async def measured(started: Stack, cluster: Cluster, console: Console) -> Machine:
    """Measure a stack in which nothing runs. Both engines are calibrated at once: they share the machine."""
    async with legato.Client(started.address) as client:
        addresses = [worker.address for worker in await client.workers()]
    found = await calibrate(addresses, Sizes())
    idle = await run(started, cluster, [_idle()], "idle", console)
    calls = [call.measured for call in idle[0].calls]
    rests = [(call.ttft_s or 0.0) - (call.prefill_s or 0.0) for call in calls[2:]]
    full = await run(started, cluster, _full(cluster.worker), "full", console)
    return Machine(found, max(median(rests), 0.0) / _HOPS, _shared(full, found.profile))


async def run(
    started: Stack, cluster: Cluster, programs: Sequence[Program], title: str, console: Console
) -> list[Program]:
    """Run the programs through the SDK, as they arrive; what was measured."""
    target = live.Target(cluster.worker.model, address=started.address)
    return await live.run(programs, target, title, console)


def _idle() -> Program:
    """Calls one after the other, each alone in the stack."""
    draft = Draft("idle", "idle", Scale(1, 1), random.Random(0))
    parents: tuple[int, ...] = ()
    for _ in range(_IDLE_CALLS):
        call, _ = draft.call("idle", (draft.own(64),), 8, parents=parents)
        parents = (call,)
    return draft.finish()


def _full(worker: WorkerSection) -> list[Program]:
    """As many calls at once as the engines' batches hold, long enough that most of their time all run."""
    programs: list[Program] = []
    for number in range(worker.count * worker.max_num_seqs):
        draft = Draft(f"full-{number}", "full", Scale(1, 1), random.Random(number))
        draft.call("full", (draft.own(_FULL_PROMPT),), _FULL_OUTPUT)
        programs.append(draft.finish())
    return programs


def _shared(full: Sequence[Program], profile: Profile) -> float:
    """What a sequence adds to a step beyond what the profile says. Of each engine's calls the one that started last
    counts: it saw no other's prefill."""
    calls = [program.calls[0].measured for program in full]
    extra: list[float] = []
    for worker in {call.worker for call in calls}:
        own = [call for call in calls if call.worker == worker]
        steps = min((call.decode_s or 0.0) / (_FULL_OUTPUT - 1) for call in own)
        context = sum(call.rec_in or 0 for call in own) + len(own) * _FULL_OUTPUT // 2
        extra.append((steps - profile.step_seconds(len(own), len(own), context, 0)) / len(own))
    return max(mean(extra), 0.0)
