"""The rate of arrivals at which a cluster is just busy, if it does as well as it can.

At that rate either engines compute all the time or their caches are full all the time. Contexts that wait for a tool
may be kept, which takes room, or dropped, which takes a prefill when they come back; those that save the most engine
seconds for each token-second of room are kept, until engines and caches are busy alike (a fractional knapsack).
It depends on programs and cluster alone, not on a policy: load is a rate over this one.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sim.limits.demand import Demand
from sim.limits.paths import Paths
from sim.limits.prices import Prices


@dataclass(frozen=True, slots=True)
class Saturation:
    """Of a workload on a cluster; seconds are of one engine and per program."""

    programs_per_second: float
    compute_seconds: float
    """All engines' work, prefills of dropped contexts included."""
    room_seconds: float
    """Time for which a whole cache would be full of what it keeps and runs."""
    kept_share: float
    """Of the token-seconds of contexts that wait between two calls."""

    @property
    def bound_by(self) -> str:
        return "compute" if self.compute_seconds > self.room_seconds * (1 + 1e-6) else "room"


def saturation(demands: Sequence[Demand], paths: Sequence[Paths], prices: Prices) -> Saturation:
    """Of programs that arrive in any order, their waits as they are on an empty cluster."""
    count, kv_tokens = len(demands), prices.capacity.kv_tokens
    compute = sum(prices.program_seconds(demand) + prices.shared_seconds(demand) for demand in demands)
    room = sum(_running_room(demand, path) for demand, path in zip(demands, paths, strict=True)) / kv_tokens
    waits = _waits(demands, paths, prices)
    recompute, all_room = sum(seconds for seconds, _ in waits), sum(held for _, held in waits)
    compute += recompute
    kept = 0.0
    for seconds, held in sorted(waits, key=lambda wait: wait[0] / wait[1], reverse=True):
        share = min(1.0, max(0.0, (compute - room) / (seconds + held / kv_tokens)))
        compute -= share * seconds
        room += share * held / kv_tokens
        kept += share * held
    rate = prices.capacity.num_engines * count / max(compute, room)
    return Saturation(rate, compute / count, room / count, kept / all_room if all_room else 1.0)


def _running_room(demand: Demand, path: Paths) -> float:
    """Token-seconds that the calls hold while they run, alone."""
    total = 0.0
    for call, prefill, decode in zip(demand.calls, path.prefills, path.decodes, strict=True):
        total += call.decode_room / max(1, call.decode_steps) * (prefill + decode)
    return total


def _waits(demands: Sequence[Demand], paths: Sequence[Paths], prices: Prices) -> list[tuple[float, float]]:
    """(engine seconds to compute it again, token-seconds to keep it) of each context that waits."""
    waits: list[tuple[float, float]] = []
    for demand, path in zip(demands, paths, strict=True):
        for reuse in demand.reuses:
            gap = path.heads[reuse.call] - path.end(reuse.last)
            if gap > 0:
                waits.append((prices.prefill_seconds(reuse.tokens, reuse.pairs), reuse.tokens * gap))
    return waits
