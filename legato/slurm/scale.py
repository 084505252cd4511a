"""`legato slurm scale`: more or fewer worker jobs."""

import re
from collections.abc import Mapping, Sequence

from legato.cluster import Worker
from legato.slurm import commands, queue
from legato.slurm.queue import Job
from legato.slurm.site import Site, SiteError

LEAVING = "leaving"
"""A folder in the cluster's directory; a job whose id is a file there has no other one follow it."""
_ELEMENT = re.compile(r"\d+_(\d+)")
_ENDING = ("COMPLETING", "COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")


def element(job: Job) -> int:
    """Its number in its array; a job that follows another one has the same."""
    found = _ELEMENT.fullmatch(job.id)
    return int(found[1]) if found else 0


def _waits_for(job: Job, other: Job) -> bool:
    """Whether it waits in the place of the other one, as one that follows it does, or is it."""
    return job.state == "PENDING" and element(job) == element(other)


def free_elements(jobs: Sequence[Job], count: int) -> str:
    """The lowest numbers that no job has, as `--array` takes them."""
    taken = {element(job) for job in jobs}
    free = (number for number in range(len(taken) + count) if number not in taken)
    return ",".join(str(next(free)) for _ in range(count))


def to_leave(jobs: Sequence[Job], work: Mapping[str, int], count: int) -> list[Job]:
    """First the ones that wait for a node, then by the calls on their node, then the oldest, whose walltime is nearest.
    `work`: name of a node to the calls there; empty: only their age counts."""
    order = sorted(jobs, key=lambda job: (job.state == "RUNNING", work.get(job.first_node, 0), int(job.plain_id)))
    return order[:count]


def work_by_node(workers: Sequence[Worker], nodes: Sequence[str]) -> dict[str, int]:
    """Calls placed on each node's workers, whose ids begin with the name of their host."""
    placed = dict.fromkeys(nodes, 0)
    for worker in workers:
        for node in nodes:
            if re.match(rf"{re.escape(node)}[.-]", worker.worker_id):
                placed[node] += worker.num_placed
    return placed


def scale(site: Site, role: str, wanted: int, workers: Sequence[Worker]) -> tuple[list[str], list[str]]:
    """Have `wanted` worker jobs of a role; `workers` say where the least work is. The ids of the array submitted, if
    any, and of the jobs that go."""
    site.require_started()
    waiting_or_running = queue.jobs([commands.workers_name(site, role)])
    leaving = site.job_dir / LEAVING
    live = [job for job in waiting_or_running if job.state not in _ENDING and not (leaving / job.plain_id).exists()]
    # One that follows another waits for it: the two are one.
    live = list({element(job): job for job in sorted(live, key=lambda job: job.state == "RUNNING")}.values())
    if wanted > len(live):
        script = site.job_dir / "jobs" / f"workers-{role}.sh"
        if not script.exists():
            raise SiteError(f"no {role} workers were submitted here: `legato slurm submit` with {commands.ROLES[role]}")
        # One that leaves keeps its number until it is gone: its pool's directory on a shared disk has it too.
        return [queue.run(str(script), f"--array={free_elements(waiting_or_running, wanted - len(live))}").strip()], []
    nodes = [job.first_node for job in live if job.state == "RUNNING"]
    gone = to_leave(live, work_by_node(workers, nodes), len(live) - wanted)
    leaving.mkdir(mode=0o700, exist_ok=True)
    for job in gone:
        if job.state == "RUNNING":
            (leaving / job.plain_id).touch()
            queue.signal(job, "USR1")
        if waiting := [each.id for each in waiting_or_running if _waits_for(each, job)]:
            queue.cancel(waiting)
    return [], [job.id for job in gone]
