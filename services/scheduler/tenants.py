"""Tenants: what each was served, and what share it may expect."""

from collections.abc import Mapping
from dataclasses import dataclass


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


class Tenants:
    """Bounded: beyond `most` the account of one without a live call that was idle longest is dropped."""

    def __init__(self, weights: Mapping[str, float], most: int = 10_000) -> None:
        self._weights = weights
        self._most = most
        self._tenants: dict[str, Tenant] = {}

    def get(self, name: str) -> Tenant:
        """The account of the tenant, opened if there is none."""
        tenant = self._tenants.get(name)
        if tenant is None:
            tenant = self._tenants[name] = Tenant(name, self._weights.get(name, 1.0))
        return tenant
