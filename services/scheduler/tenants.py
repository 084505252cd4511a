"""Tenants: what each was served, and what share it may expect."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from services.scheduler.fairness import Flow


@dataclass(slots=True, eq=False)
class Tenant:
    """The account of one."""

    name: str
    weight: float = 1.0
    """Its share of the engines beside others' when all want more than there is."""
    served_seconds: float = 0.0
    """Engine seconds of its ended calls."""
    num_live: int = 0
    """Calls queued or running."""
    urgency: float = 0.0
    """Sum over its live programs of remaining service over the time that is left for it (SAGA)."""
    fair: Flow = field(default_factory=Flow)
    """Its place among the tenants, by weight."""
    urgent: Flow = field(default_factory=Flow)
    """The same by urgency."""
    turns: Flow = field(default_factory=Flow)
    """Its place in the ideal system of fairness.py."""


class Tenants:
    """Bounded: beyond `most` the account of one without a live call that was not asked for longest is dropped."""

    def __init__(self, weights: Mapping[str, float], most: int = 10_000) -> None:
        self._weights = weights
        self._most = most
        self._tenants: OrderedDict[str, Tenant] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tenants)

    def get(self, name: str) -> Tenant:
        """The account of the tenant, opened if there is none."""
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = Tenant(name, self._weights.get(name, 1.0))
            self._drop()
        self._tenants.move_to_end(name)
        return tenant

    def _drop(self) -> None:
        if len(self._tenants) > self._most:
            idle = next((tenant for tenant in self._tenants.values() if not tenant.num_live), None)
            if idle is not None:
                del self._tenants[idle.name]
