"""What must hold at the end of a run, whatever was done to the cluster."""

import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import aiohttp

import legato
from bench.chaos import call_ends, kv_user, layout
from bench.chaos.call_ends import Ends
from bench.chaos.cluster import NUM_WORKERS, Cluster
from bench.chaos.conductor import Injected
from bench.chaos.memory import Memory, allowed
from bench.chaos.record import Record

SETTLE_SECONDS = 45.0
"""Leases, reservations and program states lapse or are written within it."""
_POLL_SECONDS = 1.0
_SHOWN = 5
_KV_USE = (kv_user.LOADED, kv_user.STORED)
IDLE: Final[Mapping[str, Mapping[str, float]]] = {
    "gateway": {
        "legato_gateway_calls_in_flight": 0,
        "legato_gateway_log_waiting_entries": 0,
        "legato_gateway_scheduler_connected": 1,
    },
    "scheduler": {"legato_scheduler_queue_length": 0, "legato_scheduler_unsaved_programs": 0},
    "kvpool": {"legato_kvpool_leases": 0, "legato_kvpool_reservations": 0},
    "kvuser": {"legato_chaos_chains_in_hand": 0},
    "worker": {"legato_worker_running_calls": 0, "legato_worker_waiting_calls": 0},
    "workflow": {"legato_workflow_log_lag_batches": 0, "legato_workflow_caught_up": 1},
}
"""What each kind of service must come to say of itself when nobody asks for anything any more."""


@dataclass(frozen=True, slots=True)
class Checked:
    """One invariant."""

    what: str
    broken: tuple[str, ...]
    """How; nothing: it holds."""
    note: str = ""

    @property
    def line(self) -> str:
        more = len(self.broken) - _SHOWN
        shown = "; ".join((*self.broken[:_SHOWN], *([f"{more} more"] if more > 0 else [])))
        what = f"{self.what} ({self.note})" if self.note else self.what
        return f"BROKEN  {what}: {shown}" if self.broken else f"holds   {what}"


def of_clients(record: Record) -> list[Checked]:
    """What the clients know by themselves."""
    ends = Counter((call.program_id, call.call_id) for call in record.calls)
    twice = [f"{program}/{call}: {count} times" for (program, call), count in ends.items() if count > 1]
    lost = record.num_programs - record.num_completed - len(record.failed)
    unended = [f"{lost} programs never ended"] if lost else []
    unended += [] if record.num_programs else ["there was none"]
    return [
        Checked("every program completes", (*record.failed, *unended), f"{record.num_completed} programs"),
        Checked(
            "every call ends exactly once for its client", (*twice, *record.misended), f"{len(record.calls)} calls"
        ),
        Checked("streams have no gap, no duplicate, nothing foreign", tuple(record.wrong)),
    ]


def of_log(ends: Ends) -> Checked:
    """What the call log says of the calls whose end a client saw."""
    broken = (
        *(f"{name}: no end" for name in ends.missing),
        *(f"{name}: several ends" for name in ends.twice),
        *(f"{name}: asked again, it began again" for name in ends.anew),
    )
    note = (
        f"{ends.once} once, {ends.at_each_gateway} at each of the gateways that they were asked of, "
        f"{ends.lost_with_gateway} in what a killed gateway had not written"
    )
    return Checked("every call ends once in the call log", broken, note)


async def read_ends(cluster: Cluster, record: Record, faults: Sequence[Injected]) -> Ends:
    """Read the call log. Raises LegatoError."""
    async with legato.Client(cluster.grpc_addresses[0]) as client:
        entries = [entry async for entry in client.read_log()]
    return call_ends.compare(record.calls, record.once_more, entries, faults)


async def of_cluster(cluster: Cluster) -> list[Checked]:
    """What the services say of themselves, as soon as it is all as it must be, else after a while."""
    give_up_at = asyncio.get_running_loop().time() + SETTLE_SECONDS
    while True:
        checked = [await _idle(cluster), await _leads(cluster), await _workers(cluster)]
        if not any(one.broken for one in checked) or asyncio.get_running_loop().time() > give_up_at:
            return checked
        await asyncio.sleep(_POLL_SECONDS)


async def _idle(cluster: Cluster) -> Checked:
    names = layout.names(*IDLE)
    return of_metrics({name: await _metrics(cluster, name) for name in names})


def of_metrics(said: Mapping[str, Mapping[str, float] | None]) -> Checked:
    """`said`: by each service that can be idle; None: it does not answer."""
    broken: list[str] = []
    for name, metrics in said.items():
        if metrics is None:
            broken.append(f"{name} does not answer")
            continue
        for metric, idle in IDLE[layout.service(name).kind].items():
            if metric not in metrics:
                broken.append(f"{name} does not say {metric}")
            elif metrics[metric] != idle:
                broken.append(f"{name}: {metric} {metrics[metric]:g}")
    return Checked("queues, slots, leases and reservations are empty, and the log is read", tuple(broken))


async def _leads(cluster: Cluster) -> Checked:
    leading = [
        name
        for name in layout.names("scheduler")
        if (await _metrics(cluster, name) or {}).get("legato_scheduler_leading")
    ]
    return Checked("one scheduler leads", () if len(leading) == 1 else (f"leading: {leading}",))


async def _workers(cluster: Cluster) -> Checked:
    broken: list[str] = []
    for address in cluster.grpc_addresses:
        try:
            async with legato.Client(address, max_retries=0, deadline_seconds=5.0) as client:
                workers = await client.workers()
        except legato.LegatoError as error:
            broken.append(f"{address}: {error}")
            continue
        if len(workers) != NUM_WORKERS:
            broken.append(f"{len(workers)} workers of {NUM_WORKERS}")
        broken += [f"{worker.worker_id}: {worker.num_placed} calls" for worker in workers if worker.num_placed]
    return Checked("every worker is there, and none has a call", tuple(broken))


async def _metrics(cluster: Cluster, name: str) -> dict[str, float] | None:
    try:
        return await cluster.metrics(name)
    except (aiohttp.ClientError, TimeoutError):
        return None


def of_memory(compared: Mapping[str, tuple[int, int]], num_unended: int) -> Checked:
    """`compared`: what each service held under load before the first fault, and in the end. `num_unended`: programs of
    which nobody said that they are over."""
    broken = [] if compared else ["nothing was compared"]
    broken += [f"{name}: not seen at both times" for name, sizes in compared.items() if not all(sizes)]
    broken += [
        f"{name}: {before >> 20} MiB grew to {after >> 20} MiB"
        for name, (before, after) in compared.items()
        if before and after > allowed(name, before, num_unended)
    ]
    worst = max((after / max(before, 1) for before, after in compared.values()), default=0.0)
    return Checked("memory returns to base", tuple(broken), f"at most {worst:.2f} times of it")


def of_lives(memory: Memory, faults: Sequence[Injected]) -> Checked:
    """Nothing dies that was not killed; but etcd ends itself when it cannot write."""
    killed = Counter(fault.planned.fault.target for fault in faults if fault.planned.kind == "kill")
    full = {fault.planned.fault.target for fault in faults if fault.planned.kind == "full_disk"} & {"etcd"}
    broken = [
        f"{name}: {len(pids) - 1} deaths, {killed[name]} of them asked for"
        for name, pids in sorted(memory.lives.items())
        if len(pids) - 1 > killed[name] and name not in full
    ]
    return Checked("no service dies by itself", tuple(broken), f"{killed.total()} were killed")


def of_logs(log_dir: Path) -> list[Checked]:
    """What services wrote."""
    bugs: list[str] = []
    wrong: list[str] = []
    used: list[str] = []
    for service in layout.SERVICES:
        text = (log_dir / f"{service.name}.log").read_text(encoding="utf-8", errors="replace")
        if count := text.count("Traceback (most recent call last)"):
            bugs.append(f"{service.name}: {count} tracebacks")
        if count := text.count("WRONG"):
            wrong.append(f"{service.name}: {count} blocks")
        if service.kind == "kvuser":
            loaded, stored = (sum(map(int, re.findall(rf"{done} (\d+) blocks$", text, re.M))) for done in _KV_USE)
            used.append(f"{service.name} loaded {loaded} and stored {stored}")
            if not (loaded and stored):
                wrong.append(used[-1])
    return [
        Checked("no service meets a bug", tuple(bugs)),
        Checked("KV pools give no block that is another's", tuple(wrong), ", ".join(used)),
    ]
