"""Speeds of a pool as measured: how fast one copy goes, and how much is moved in all."""

from math import exp

from services.kvpool.cost import Costs, Source

_WEIGHT = 0.2
"""Of a new measurement against the average."""
_LEAST_BYTES = 256 * 1024
"""Smaller copies say more of latency than of speed."""
_WINDOW_SECONDS = 10.0


class Speeds:
    """Moving averages in bytes a second; 0: not known yet. What is learned, `costs` learns too."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._speeds: dict[Source, float] = {"dram": 0.0, "ssd": 0.0, "peer": 0.0}

    def __getitem__(self, source: Source) -> float:
        return self._speeds[source]

    def learn(self, source: Source, num_bytes: int, seconds: float) -> None:
        """A copy from there took so long."""
        if num_bytes < _LEAST_BYTES or seconds <= 0:
            return
        self._costs.learn_reload(source, num_bytes, seconds)
        new, old = num_bytes / seconds, self._speeds[source]
        self._speeds[source] = old + _WEIGHT * (new - old) if old else new


class Meter:
    """Bytes a second over about the last ten, from a count that grows. `now` in seconds."""

    def __init__(self, now: float) -> None:
        self._total = 0
        self._rate = 0.0
        self._at = now

    def update(self, total: int, now: float) -> None:
        """The count is `total` now."""
        if total != self._total:
            self._rate = self.rate(now) + (total - self._total) / _WINDOW_SECONDS
            self._total, self._at = total, now

    def rate(self, now: float) -> float:
        """Bytes a second."""
        return self._rate * exp((self._at - now) / _WINDOW_SECONDS)
