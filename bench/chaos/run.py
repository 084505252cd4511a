"""One run: a cluster, programs on it, a while without faults, the faults, the programs' ends, then the questions."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

import legato
from bench.chaos import cluster, faults, invariants, memory, plan
from bench.chaos.cluster import Cluster
from bench.chaos.conductor import Injected, conduct
from bench.chaos.doors import PATIENCE_SECONDS, HttpDoor, SdkDoor
from bench.chaos.invariants import Checked
from bench.chaos.load import Load
from bench.chaos.record import Record
from bench.chaos.reference import Reference
from bench.chaos.report import Report
from services.local.children import KeepsDying

END_SECONDS = 240.0
"""What the programs that live when the faults are over may take to end."""
_CALM_SECONDS = 5.0
"""After the last program, for memory."""
_SDK_PATIENCE = 60
"""Tries of a call that finds nobody."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What to do."""

    seed: int
    seconds: float
    """Of faults."""
    num_live: int
    """Programs at a time."""
    run_in_seconds: float
    """Under load, before the first fault: its memory is the base."""
    log_dir: Path
    kinds: Sequence[str] = field(default_factory=faults.names)
    targets: str = ""
    doors: Sequence[str] = ("sdk", "http", "sdk")
    """That programs take in turn."""
    pause_seconds: float = plan.MEAN_PAUSE_SECONDS


async def run(asked: Asked, say: Callable[[str], None]) -> Report:
    """Raises what keeps the run itself from going on; what it found is in the report."""
    report = Report(asked.seed, asked.seconds, asked.num_live)
    try:
        async with cluster.running(asked.log_dir) as running, memory.watching(running) as watched:
            await _run(asked, say, running, watched, report)
    except* KeepsDying as dead:
        died = tuple(map(str, dead.exceptions))
        report.checked += [*invariants.of_clients(report.record), Checked("every service can be started again", died)]
    report.checked += invariants.of_logs(asked.log_dir)
    return report


async def _run(
    asked: Asked, say: Callable[[str], None], running: Cluster, watched: memory.Memory, report: Report
) -> None:
    """All of it, on a cluster that runs."""
    now, record = asyncio.get_running_loop().time, report.record
    planned, report.left_out = _plan(asked, running)
    reference = Reference(cluster.MODEL, cluster.MODEL_PATH, cluster.MAX_MODEL_LEN)
    say(f"the cluster is ready; seed {asked.seed} plans {len(planned)} faults")
    async with _load(running, asked, reference, record) as load:
        base = now()
        await asyncio.sleep(asked.run_in_seconds)
        base_until = now()
        await conduct(running, planned, say, report.faults)
        load.close()
    running.closed.touch()
    say(f"faults and programs are over: {record.num_completed} of {record.num_programs} completed")
    calm = now()
    checked = [*invariants.of_clients(record), *await _aftermath(running, record, report.faults)]
    await asyncio.sleep(max(0.0, calm + _CALM_SECONDS - now()))
    report.memory = watched.compared((base, base_until), (calm, now()))
    checked += [invariants.of_memory(report.memory, record.num_unended), invariants.of_lives(watched, report.faults)]
    report.checked += checked


def _plan(asked: Asked, running: Cluster) -> tuple[list[plan.Planned], list[str]]:
    kinds, left_out = set(asked.kinds), list[str]()
    if running.library is None and "clock_jump" in kinds:
        kinds.remove("clock_jump")
        left_out.append("clock_jump: there is no C compiler for what gives a process a clock of its own")
    return plan.draw(asked.seed, asked.seconds, kinds, asked.pause_seconds, asked.targets), left_out


@asynccontextmanager
async def _load(running: Cluster, asked: Asked, reference: Reference, record: Record) -> AsyncGenerator[Load]:
    """Programs while inside; leaving waits for the ends of those that live, as long as that may take."""
    async with (
        legato.Client(
            ",".join(running.grpc_addresses), max_retries=_SDK_PATIENCE, reconnect_seconds=PATIENCE_SECONDS
        ) as client,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as tasks,
    ):
        doors = {
            "sdk": SdkDoor(client, record),
            "http": HttpDoor(session, running.http_addresses, cluster.MODEL, record),
        }
        load = Load("chaos", [doors[name] for name in asked.doors], reference, record)
        task = tasks.create_task(load.run(asked.num_live), name="programs")
        yield load
        await asyncio.wait((task,), timeout=END_SECONDS)
        task.cancel()


async def _aftermath(running: Cluster, record: Record, injected: Sequence[Injected]) -> list[Checked]:
    checked = await invariants.of_cluster(running)
    try:
        ends = await invariants.read_ends(running, record, injected)
    except legato.LegatoError as error:
        return [*checked, Checked("the call log can be read", (str(error),))]
    return [*checked, invariants.of_log(ends)]
