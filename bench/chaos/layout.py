"""What a run does its harm to: three nodes, and on them every service of a cluster, most of them twice."""

from dataclasses import dataclass
from typing import Final

CONTROL, LEFT, RIGHT = "control", "left", "right"
NODES: Final = (CONTROL, LEFT, RIGHT)


@dataclass(frozen=True, slots=True)
class Service:
    """One process."""

    name: str
    kind: str
    """What `python -m services.<kind>` runs; etcd and redis are themselves, a kvuser is ours (kv_user.py)."""
    node: str


SERVICES: Final = (
    Service("etcd", "etcd", CONTROL),
    Service("redis", "redis", CONTROL),
    Service("scheduler-1", "scheduler", CONTROL),
    Service("scheduler-2", "scheduler", LEFT),
    Service("workflow", "workflow", CONTROL),
    Service("kvpool-1", "kvpool", LEFT),
    Service("kvpool-2", "kvpool", RIGHT),
    Service("kvuser-1", "kvuser", LEFT),
    Service("kvuser-2", "kvuser", RIGHT),
    Service("worker-1", "worker", LEFT),
    Service("worker-2", "worker", RIGHT),
    Service("gateway-1", "gateway", CONTROL),
    Service("gateway-2", "gateway", LEFT),
)
"""In the order of their start."""
DISKS: Final = {"etcd": 256, "redis": 512, "kvpool-1": 64, "kvpool-2": 64}
"""Who has a file system of its own to write to, and its size in MiB."""
NO_CLOCK: Final = frozenset(("etcd",))
"""Whose clock cannot be set: a static binary reads it past every library."""


def names(*kinds: str) -> list[str]:
    """The services of these kinds; with none said, all."""
    return [service.name for service in SERVICES if not kinds or service.kind in kinds]


def service(name: str) -> Service:
    """The service of that name."""
    return next(service for service in SERVICES if service.name == name)
