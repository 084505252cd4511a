"""A Prometheus histogram as a service exposes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Histogram:
    """Cumulative counts by upper bound, labels summed."""

    buckets: Mapping[float, float]

    @property
    def count(self) -> int:
        return int(max(self.buckets.values(), default=0))

    def quantile(self, share: float) -> float:
        """Linear inside a bucket, as Prometheus does it; the last finite bound for what lies beyond. 0 when empty."""
        wanted = share * self.count
        low, below = 0.0, 0.0
        for bound, cumulative in sorted(self.buckets.items()):
            if cumulative >= wanted and cumulative > below:
                return low if bound == inf else low + (bound - low) * (wanted - below) / (cumulative - below)
            low, below = (bound, cumulative) if bound != inf else (low, below)
        return low

    def since(self, before: "Histogram") -> "Histogram":
        """What was added after `before`."""
        return Histogram({bound: count - before.buckets.get(bound, 0) for bound, count in self.buckets.items()})


def histogram(text: str, name: str) -> Histogram:
    """The histogram of that name in an exposition; empty when it is not there."""
    buckets: dict[float, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == f"{name}_bucket":
                bound = float(sample.labels["le"])
                buckets[bound] = buckets.get(bound, 0) + sample.value
    return Histogram(buckets)
