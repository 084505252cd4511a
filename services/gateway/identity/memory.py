"""What is remembered of tenants' calls, within a bound that they share: one that says much forgets its own first."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class TenantMemory(Generic[V]):
    """Values by tenant and key, of a total size of at most `most`. Of a tenant those not used longest leave first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tenants: dict[str, OrderedDict[Hashable, tuple[V, int]]] = {}
        self._sizes: dict[str, int] = {}
        self._size = 0

    def __len__(self) -> int:
        """The total size."""
        return self._size

    def get(self, tenant: str, key: Hashable) -> V | None:
        """Which counts as a use."""
        entries = self._tenants.get(tenant)
        if entries is None or (entry := entries.get(key)) is None:
            return None
        entries.move_to_end(key)
        return entry[0]

    def put(self, tenant: str, key: Hashable, value: V, size: int = 1) -> None:
        entries = self._tenants.setdefault(tenant, OrderedDict())
        _, old = entries.pop(key, (None, 0))
        entries[key] = (value, size)
        self._add(tenant, size - old)
        while self._size > self._most:
            self._forget(tenant)

    def _forget(self, tenant: str) -> None:
        """One entry: of this tenant if it has its share, else of the one that has most."""
        if self._sizes.get(tenant, 0) * len(self._tenants) < self._size:
            tenant = max(self._sizes, key=lambda name: self._sizes[name])
        entries = self._tenants[tenant]
        _, (_, size) = entries.popitem(last=False)
        self._add(tenant, -size)
        if not entries:
            del self._tenants[tenant], self._sizes[tenant]

    def _add(self, tenant: str, size: int) -> None:
        self._size += size
        self._sizes[tenant] = self._sizes.get(tenant, 0) + size
