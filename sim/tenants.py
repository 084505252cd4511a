"""Tenants that come as real ones do: by the envelopes of `tenants_servegen`.

An envelope says, for each window of ten minutes, a tenant's rate and how its arrivals are spread: Gamma or Weibull
times between them, with a coefficient of variation. Rates are all multiplied by one factor, so that tenants keep their
sizes beside one another, their bursts and their quiet hours. Arrivals of a tenant are a renewal process in the time in
which its rate is one, so that a change of rate in the middle of a gap counts from there on.
"""

import dataclasses
import gzip
import heapq
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sim.trace import Program
from sim.workload import TRACES

_FILE = "tenants_servegen.jsonl.gz"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A tenant's rate by window; `cv` and `spread` (G, W, or - for none) likewise."""

    tenant: str
    window_seconds: float
    rate: tuple[float, ...]
    cv: tuple[float, ...]
    spread: str


def read(path: Path) -> list[Envelope]:
    """All of a file."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [Envelope(r["tenant"], r["window_s"], tuple(r["rate"]), tuple(r["cv"]), r["dist"]) for r in rows]


def arrivals(
    programs: Sequence[Program], programs_per_second: float, seed: int = 1, *, count: int = 8, path: Path | None = None
) -> list[Program]:
    """The programs in random order, each of one of `count` tenants drawn from the file, at that rate on average."""
    rng = random.Random(f"tenants/{seed}")
    envelopes = read(path or TRACES / _FILE)
    num_windows = math.ceil(len(programs) / programs_per_second / envelopes[0].window_seconds) + 1
    chosen = _drawn(envelopes, count, num_windows, rng)
    total = sum(sum(envelope.rate) / len(envelope.rate) for envelope in chosen)
    streams = [_times(envelope, programs_per_second / total, rng) for envelope in chosen]
    shuffled = rng.sample(programs, len(programs))
    arrived = zip(shuffled, heapq.merge(*streams), strict=False)
    return [dataclasses.replace(program, arrival_s=at, tenant=tenant) for program, (at, tenant) in arrived]


def _drawn(envelopes: Sequence[Envelope], count: int, num_windows: int, rng: random.Random) -> list[Envelope]:
    """Stretches of some tenants' lives, of windows in which each has something to do at all."""
    busy = [e for e in envelopes if len(e.rate) >= num_windows and sum(e.rate) > 0]
    if len(busy) < count:
        raise ValueError(f"{count} tenants over {num_windows} windows: the file has {len(busy)}")
    chosen: list[Envelope] = []
    for envelope in rng.sample(busy, count):
        starts = [at for at in range(len(envelope.rate) - num_windows + 1) if any(envelope.rate[at : at + num_windows])]
        at = rng.choice(starts)
        part = slice(at, at + num_windows)
        chosen.append(
            dataclasses.replace(envelope, rate=envelope.rate[part], cv=envelope.cv[part], spread=envelope.spread[part])
        )
    return chosen


def _times(envelope: Envelope, factor: float, rng: random.Random) -> Iterator[tuple[float, str]]:
    """When programs come, again and again the same windows; each with the tenant's name."""
    window, turn = 0, 0
    into = 0.0  # seconds into the window
    left = rng.random()  # of the gap, in the time in which the rate is one
    while True:
        rate = envelope.rate[window] * factor
        needed = left / rate if rate else math.inf
        if into + needed < envelope.window_seconds:
            into += needed
            yield (turn * len(envelope.rate) + window) * envelope.window_seconds + into, envelope.tenant
            left = _gap(envelope.spread[window], envelope.cv[window], rng)
            continue
        left -= rate * (envelope.window_seconds - into)
        into = 0.0
        window += 1
        if window == len(envelope.rate):
            window, turn = 0, turn + 1


def _gap(spread: str, cv: float, rng: random.Random) -> float:
    """A gap whose mean is one."""
    if cv <= 0:
        return 1.0
    if spread == "W":
        shape = _weibull_shape(cv)
        return rng.weibullvariate(1 / math.gamma(1 + 1 / shape), shape)
    return rng.gammavariate(1 / cv**2, cv**2)


@cache
def _weibull_shape(cv: float) -> float:
    """The shape whose coefficient of variation it is, by bisection: the more, the smaller."""

    def variation(shape: float) -> float:
        return math.sqrt(math.exp(math.lgamma(1 + 2 / shape) - 2 * math.lgamma(1 + 1 / shape)) - 1)

    low, high = 0.05, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if variation(middle) > cv else (low, middle)
    return (low + high) / 2
