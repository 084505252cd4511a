"""What can go wrong in a run, and when. A worker is named by its host's number."""

from dataclasses import dataclass
from math import inf
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class WorkerDies:
    """With all that runs there and its cache. Another takes its place after a while."""

    at: float
    worker: int
    back_after: float = inf


@dataclass(frozen=True, slots=True)
class WorkerSlows:
    """Its steps take longer from the next on, for a while."""

    at: float
    worker: int
    factor: float
    seconds: float = inf


@dataclass(frozen=True, slots=True)
class LeaderChanges:
    """The scheduler is gone; another leads after a while, which workers and gateways tell what there is."""

    at: float
    outage_seconds: float = 3.0


Fault: TypeAlias = WorkerDies | WorkerSlows | LeaderChanges
