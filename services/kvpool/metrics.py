"""What /metrics of a pool tells. What the core counts is read from it when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple

from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.kvpool.places import DRAM, SSD

if TYPE_CHECKING:
    from services.kvpool.pool import Pool

_DECISION = (0.00001, 0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5)
_WAIT = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

DECISION_SECONDS: Final = Histogram(
    "legato_kvpool_decision_seconds", "What the core took for one event.", buckets=_DECISION
)
ACQUIRE_SECONDS: Final = Histogram(
    "legato_kvpool_acquire_seconds",
    "From an Acquire to its answer, copies from disk and peers included.",
    buckets=_WAIT,
)
PULLS: Final = Counter("legato_kvpool_pulls_total", "Pulls from other pools, by how they ended.", ("stop",))
DISK_FAILURES: Final = Counter(
    "legato_kvpool_disk_failures_total", "Blocks that were not read or written right, and disks given up.", ("kind",)
)
FAILED_TRANSFERS: Final = Counter("legato_kvpool_failed_transfers_total", "Transfers that met a bug.", ("kind",))

_Values = Mapping[tuple[str, ...], float]
_TIERS = {"dram": DRAM, "ssd": SSD}


def _tiers(of: Callable[[Pool, int], float]) -> Callable[[Pool], _Values]:
    return lambda pool: {(name,): of(pool, tier) for name, tier in _TIERS.items()}


def _one(of: Callable[[Pool], float]) -> Callable[[Pool], _Values]:
    return lambda pool: {(): of(pool)}


def _num_blocks(pool: Pool, tier: int) -> int:
    return sum(namespace.tree.num_blocks[tier] for namespace in pool.core.namespaces.values())


def _copy_speeds(pool: Pool) -> _Values:
    return {("dram",): pool.speeds["dram"], ("ssd",): pool.speeds["ssd"], ("peer",): pool.speeds["peer"]}


def _evictions(pool: Pool) -> _Values:
    return {(reason,): number for reason, number in pool.core.eviction.reasons.items()}


class _Row(NamedTuple):
    name: str
    text: str
    labels: tuple[str, ...]
    values: Callable[[Pool], _Values]


_GAUGES = (
    _Row("used_bytes", "In use.", ("tier",), _tiers(lambda pool, tier: pool.core.places.slots[tier].used_bytes)),
    _Row("capacity_bytes", "Size.", ("tier",), _tiers(lambda pool, tier: pool.core.places.slots[tier].capacity_bytes)),
    _Row("blocks", "Engine blocks held.", ("tier",), _tiers(_num_blocks)),
    _Row("leases", "Leases held.", (), _one(lambda pool: len(pool.core.leases.held))),
    _Row("reservations", "Reservations open.", (), _one(lambda pool: len(pool.core.reservations.open))),
    _Row("copy_bytes_per_second", "Moving average of one copy, by where it comes from.", ("source",), _copy_speeds),
)
_COUNTERS = (
    _Row("hit_blocks", "Blocks given to calls.", ("tier",), _tiers(lambda pool, tier: pool.core.counts.num_hits[tier])),
    _Row("read_bytes", "Read from it.", ("tier",), _tiers(lambda pool, tier: pool.core.counts.read_bytes[tier])),
    _Row("written_bytes", "Written to it.", ("tier",), _tiers(lambda pool, tier: pool.core.counts.written_bytes[tier])),
    _Row("requested_blocks", "Blocks that calls asked for.", (), _one(lambda pool: pool.core.counts.num_requested)),
    _Row("missed_blocks", "Of these, those not to be had.", (), _one(lambda pool: pool.core.counts.num_missed)),
    _Row("pulled_blocks", "Blocks copied from other pools.", (), _one(lambda pool: pool.core.counts.num_pulled)),
    _Row("corrupt_blocks", "Blocks dropped for their checksum.", (), _one(lambda pool: pool.core.counts.num_corrupt)),
    _Row("evicted_blocks", "Blocks that left the pool or a tier.", ("reason",), _evictions),
)


class _Pools(Collector):
    """The pools of this process."""

    def __init__(self) -> None:
        self.pools: set[Pool] = set()

    def collect(self) -> Iterator[Metric]:
        for kind, rows in ((GaugeMetricFamily, _GAUGES), (CounterMetricFamily, _COUNTERS)):
            for row in rows:
                family = kind(f"legato_kvpool_{row.name}", row.text, labels=("pool", *row.labels))
                for pool in self.pools:
                    for key, value in row.values(pool).items():
                        family.add_metric((pool.pool_id, *key), value)
                yield family

    def describe(self) -> Iterator[Metric]:
        return self.collect()


_POOLS: Final = _Pools()
REGISTRY.register(_POOLS)


def tell_of(pool: Pool) -> Callable[[], None]:
    """Include the pool from now on; the answer ends that."""
    _POOLS.pools.add(pool)
    return lambda: _POOLS.pools.discard(pool)
