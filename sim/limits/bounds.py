"""Lower limits for programs that arrive over time: of the end of the last one, and of the mean completion time.

Engines together are one server of their summed speed that may stop and go on anywhere; a program is so many seconds of
it (`Prices`). Three limits of the mean completion time, of which the greatest counts:

- *critical*: the mean critical path.
- *srpt*: shortest remaining processing time first is the best on one such server (Schrage 1968).
- *busy*: a program's work cannot be done before its calls can be issued, and after each call the rest of the longest
  path still has to run. So a program's completion is at least the mean time at which its work is done plus the mean
  rest; the former, summed over programs, is least when at any time the released work of the smallest program runs
  (preemptive WSPT is best for mean busy times: Goemans 1997).
"""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from sim.limits.demand import Demand
from sim.limits.paths import Paths
from sim.limits.prices import Prices


@dataclass(frozen=True, slots=True)
class Bound:
    """Seconds, of the mean completion time."""

    critical: float
    srpt: float
    busy: float

    @property
    def seconds(self) -> float:
        return max(self.critical, self.srpt, self.busy)


@dataclass(frozen=True, slots=True)
class _Work:
    """Seconds of one engine that can be used from `release` on, for a program of so many in all."""

    release: float
    seconds: float
    total: float


def makespan(arrivals: Sequence[float], paths: Sequence[Paths], demands: Sequence[Demand], prices: Prices) -> float:
    """When the last program ends, at the earliest (algorithms.md 3.2): a path after its arrival, or what arrived since
    any moment after that moment."""
    ends = [at + path.critical_path for at, path in zip(arrivals, paths, strict=True)]
    works = [prices.program_seconds(demand) for demand in demands]
    since, latest = 0.0, max(ends)
    for at, work in sorted(zip(arrivals, works, strict=True), reverse=True):
        since += work
        latest = max(latest, at + since / prices.capacity.num_engines)
    shared = sum(prices.shared_seconds(demand) for demand in demands)
    return max(latest, min(arrivals) + (since + shared) / prices.capacity.num_engines)


def mean_jct(arrivals: Sequence[float], paths: Sequence[Paths], demands: Sequence[Demand], prices: Prices) -> Bound:
    """Limits of the mean time from a program's arrival to its end."""
    count, speed = len(arrivals), prices.capacity.num_engines
    works = [prices.program_seconds(demand) for demand in demands]
    spread: list[_Work] = []
    rests = 0.0
    for at, path, demand, total in zip(arrivals, paths, demands, works, strict=True):
        pieces = list(_pieces(path, demand, prices))
        spread += [_Work(at + head, seconds, total) for seconds, head, _ in pieces]
        rests += sum(seconds * rest for seconds, _, rest in pieces) / total
    return Bound(
        critical=sum(path.critical_path for path in paths) / count,
        srpt=(_srpt(arrivals, works, speed) - sum(arrivals)) / count,
        busy=(_busy(spread, speed) + rests - sum(arrivals)) / count,
    )


def _pieces(path: Paths, demand: Demand, prices: Prices) -> list[tuple[float, float, float]]:
    """A program's work as (engine seconds, seconds from arrival before it, seconds after it until the end)."""
    pieces: list[tuple[float, float, float]] = []
    for number, call in enumerate(demand.calls):
        head, tail, decode = path.heads[number], path.tails[number], path.decodes[number]
        pieces.append((prices.call_prefill_seconds(call), head, tail + decode))
        rest = tail + decode * _mean_rest(call.decode_steps, prices.growth_share(call))
        pieces.append((prices.call_decode_seconds(call), head, rest))
    for piece in demand.pieces:
        head = min(path.heads[call] for call in piece.calls)
        rest = min(path.tails[call] + path.decodes[call] for call in piece.calls)
        pieces.append((prices.prefill_seconds(piece.tokens, piece.pairs), head, rest))
    return pieces


def _mean_rest(steps: int, growth_share: float) -> float:
    """Share of a decode that follows a second of its work, on average: steps come one after the other, and what grows
    from step to step lies late."""
    return (steps - 1) / steps * (1 / 2 - growth_share / 6) if steps else 0.0


def _srpt(arrivals: Sequence[float], works: Sequence[float], speed: float) -> float:
    """Sum of the completion times."""
    waiting: list[float] = []
    now = total = 0.0
    for at, work in [*sorted(zip(arrivals, works, strict=True)), (float("inf"), 0.0)]:
        while waiting and now + waiting[0] / speed <= at:
            now += heapq.heappop(waiting) / speed
            total += now
        if waiting:
            waiting[0] -= (at - now) * speed  # still the least: it shrank
        now = at
        heapq.heappush(waiting, work)
    return total


def _busy(works: Sequence[_Work], speed: float) -> float:
    """Sum over programs of the mean time at which their work is done."""
    ready: list[tuple[float, int, float]] = []
    now = total = 0.0
    for number, work in enumerate([*sorted(works, key=lambda work: work.release), _Work(float("inf"), 0.0, 1.0)]):
        while ready and now < work.release:
            size, place, left = heapq.heappop(ready)
            seconds = min(left / speed, work.release - now)
            total += seconds * speed / size * (now + seconds / 2)
            now += seconds
            if left - seconds * speed > 1e-12:
                heapq.heappush(ready, (size, place, left - seconds * speed))
        now = max(now, work.release)
        heapq.heappush(ready, (work.total, number, work.seconds))
    return total
