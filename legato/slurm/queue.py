"""Slurm's queue, as squeue tells it, and the commands that change it."""

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from legato.errors import LegatoError

_FIELDS = "%i|%A|%j|%T|%N|%B|%L|%r"
_COMMAND_SECONDS = 60.0


class SlurmError(LegatoError):
    """Slurm is not there, or refused; the message holds what it said."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job, an element of an array, or a component of a heterogeneous job."""

    id: str
    """As scancel takes it: 12, 12_3, 12+1."""
    plain_id: str
    """What the job itself knows as SLURM_JOB_ID; for waiting elements the array's."""
    name: str
    state: str
    """PENDING, RUNNING, COMPLETING, ..."""
    nodes: str
    """As Slurm writes them: nid[001-002]."""
    first_node: str
    """Where its batch script runs, and of an engine over several nodes the worker."""
    time_left: str
    reason: str
    """Why it waits."""


def parse(text: str) -> list[Job]:
    """The lines of squeue in our format. What is not ours is left out."""
    rows = (line.split("|") for line in text.splitlines())
    return [Job(*(field.strip() for field in row)) for row in rows if len(row) == 8]


def jobs(names: Sequence[str]) -> list[Job]:
    """This user's jobs of these names that wait or run, each array element by itself."""
    return parse(run("squeue", "--me", "--noheader", "--array", f"--name={','.join(names)}", f"--format={_FIELDS}"))


def signal(job: Job, number: str) -> None:
    """To the batch shell of a job, which passes it on."""
    run("scancel", "--batch", f"--signal={number}", job.id)


def cancel(job_ids: Sequence[str]) -> None:
    """End jobs: SIGTERM, and SIGKILL after the site's KillWait."""
    run("scancel", *job_ids)


def run(*command: str) -> str:
    """What a command of Slurm says."""
    if shutil.which(command[0]) is None:
        raise SlurmError(f"{command[0]} is not on PATH: run this where jobs are submitted (a login node)")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} has not answered for {_COMMAND_SECONDS:.0f} s: is slurmctld up?") from None
    if done.returncode:
        raise SlurmError(explained(" ".join(done.stderr.split()) or f"{command[0]} ended with {done.returncode}"))
    return done.stdout


_CAUSES = {
    "invalid partition": "CONTROL_PARTITION or WORKER_PARTITION",
    "invalid account": "ACCOUNT",
    "invalid generic resource": "GPUS_PER_NODE",
    "requested node configuration is not available": "CONTROL_CPUS, CONTROL_MEMORY, WORKER_CPUS, WORKER_MEMORY or "
    "GPUS_PER_NODE",
    "more processors requested than permitted": "CONTROL_CPUS or WORKER_CPUS",
    "memory specification can not be satisfied": "CONTROL_MEMORY or WORKER_MEMORY",
    "invalid time limit": "CONTROL_TIME or WORKER_TIME",
    "requested time limit is invalid": "CONTROL_TIME or WORKER_TIME",
    "invalid qos": "CONTROL_OPTIONS or WORKER_OPTIONS",
    "invalid feature": "CONTROL_OPTIONS or WORKER_OPTIONS",
    "invalid job array": "WORKERS, PREFILL_WORKERS or DECODE_WORKERS: more than the site's MaxArraySize",
}
"""What sbatch says, in lower case, to the keys of the site file that it is about."""


def explained(said: str) -> str:
    """An error of sbatch with the key of the site file that causes it."""
    for cause, keys in _CAUSES.items():
        if cause in said.lower():
            return f"{said} (in the site file: {keys})"
    return said
