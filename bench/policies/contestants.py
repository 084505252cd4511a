"""Who is compared: each preset of services/scheduler/policies, and some combinations that are no preset."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from services.scheduler import policy
from sim.experiment import Workflow

Kind = Literal["baseline", "reference", "published", "clairvoyant", "ours"]

OURS = "legato"
BASELINE = "fcfs+affinity"
ORACLE = f"{OURS} (clairvoyant)"
FORECASTS = f"{OURS}+forecasts"
"""With a workflow service that has seen other programs of the workload."""
COLD = f"{FORECASTS} (cold)"
"""With one that knows nothing at the start."""
_REFERENCES = ("fcfs", "gittins", "session")
"""Parts of ours without the rest."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """A policy as a simulation is set up for it."""

    name: str
    kind: Kind
    policy: str
    scheduler: Mapping[str, Any] = field(default_factory=dict[str, Any], hash=False)
    oracle: bool = False
    direct: bool = False
    """No scheduler: engines' own queues behind a plain router (sim/router.py)."""
    router: str = "session"
    workflow: Workflow = ""


def contestants() -> dict[str, Contestant]:
    """All there are, by name.

    The baseline is an engine's own queue (FCFS, LRU prefix cache) behind a router that keeps programs where they are;
    `fcfs+cache` the same behind one that sends calls where their prefix is (sglang-router's rule). `fcfs`
    is the same order in the scheduler, with its placement. Clairvoyant ones are told the truth about every call.
    """
    found = [
        Contestant(BASELINE, "baseline", "fcfs", direct=True),
        Contestant("fcfs+cache", "published", "fcfs", direct=True, router="cache_aware"),
        Contestant(OURS, "ours", OURS),
        Contestant(ORACLE, "clairvoyant", OURS, oracle=True),
        Contestant(FORECASTS, "reference", OURS, workflow="warm"),
        Contestant(COLD, "reference", OURS, workflow="cold"),
    ]
    for name in policy.names():
        if name == "srpt":
            found.append(Contestant("srpt (clairvoyant)", "clairvoyant", name, oracle=True))
        elif name != OURS:
            found.append(Contestant(name, "reference" if name in _REFERENCES else "published", name))
    return {contestant.name: contestant for contestant in found}
