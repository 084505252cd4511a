"""What is remembered of tenants' calls, within a bound that they share: one that says much forgets its own first."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class TenantMemory(Generic[V]):
    """Values by tenant and key, of a total size of at most `most`. Of a tenant those not used longest leave first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tenants: OrderedDict[str, OrderedDict[Hashable, tuple[V, int]]] = OrderedDict()
        """Those that were passed over as having less than their share stand last."""
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
        """One entry: of this tenant if it has its share, else of one that has. Clients may make up tenants by the
        thousand: who was passed over is not looked at again before all others were."""
        if not self._has_share(tenant):
            while not self._has_share(tenant := next(iter(self._tenants))):
                self._tenants.move_to_end(tenant)
        entries = self._tenants[tenant]
        _, (_, size) = entries.popitem(last=False)
        self._add(tenant, -size)
        if not entries:
            del self._tenants[tenant], self._sizes[tenant]

    def _has_share(self, tenant: str) -> bool:
        return self._sizes.get(tenant, 0) * len(self._tenants) >= self._size

    def _add(self, tenant: str, size: int) -> None:
        self._size += size
        self._sizes[tenant] = self._sizes.get(tenant, 0) + size
