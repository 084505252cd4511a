"""What `bench.scale_out` found at each size, and how it is shown."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.histogram import Histogram
from bench.scale_out_load import Took
from bench.statistics import quantile


@dataclass(frozen=True, slots=True)
class Counts:
    """What services have counted up to a moment."""

    at: float
    decisions: Histogram
    prepared: Histogram
    cpu_seconds: Mapping[str, float]
    """By service; `driver` is the benchmark's own process."""

    def since(self, before: "Counts") -> "Counts":
        """What was added after `before`; `at` is the time that passed."""
        cpu = {name: seconds - before.cpu_seconds.get(name, 0.0) for name, seconds in self.cpu_seconds.items()}
        decisions, prepared = self.decisions.since(before.decisions), self.prepared.since(before.prepared)
        return Counts(self.at - before.at, decisions, prepared, cpu)


@dataclass(frozen=True, slots=True)
class Size:
    """So many nodes, and what they did in the measured time."""

    nodes: int
    programs: int
    seconds: float
    calls: int
    tokens_per_second: float
    calls_per_second: float
    queued_p50_seconds: float
    engine_p50_seconds: float
    beside_p50_seconds: float
    """Of a call's time, what is neither queue nor engine."""
    beside_p99_seconds: float
    decision_p99_seconds: float
    """In the scheduler, from a gateway's event to the end of what it led to; the call's queue time holds it."""
    prepare_p99_seconds: float
    """In the gateway: parsing, rendering, tokenizing, hashing; `beside` holds it."""
    cores: Mapping[str, float]
    """Busy, by service."""
    first_errors: Sequence[str]

    @classmethod
    def of(cls, nodes: int, programs: int, counts: Counts, calls: Sequence[Took], errors: Sequence[str]) -> "Size":
        """`counts`: what the services did in the measured time; `calls`: those that ended in it."""
        beside = [call.beside for call in calls]
        return cls(
            nodes=nodes,
            programs=programs,
            seconds=counts.at,
            calls=len(calls),
            tokens_per_second=sum(call.tokens for call in calls) / counts.at,
            calls_per_second=len(calls) / counts.at,
            queued_p50_seconds=quantile([call.queued for call in calls], 0.5),
            engine_p50_seconds=quantile([call.engine for call in calls], 0.5),
            beside_p50_seconds=quantile(beside, 0.5),
            beside_p99_seconds=quantile(beside, 0.99),
            decision_p99_seconds=counts.decisions.quantile(0.99),
            prepare_p99_seconds=counts.prepared.quantile(0.99),
            cores={name: round(seconds / counts.at, 3) for name, seconds in counts.cpu_seconds.items()},
            first_errors=errors[:5],
        )


def efficiency(size: Size, first: Size) -> float:
    """Tokens per second for each node, over those of the first size."""
    base = first.tokens_per_second / first.nodes
    return size.tokens_per_second / size.nodes / base if base else 0.0


HEADINGS = (
    *("nodes", "programs", "tokens/s", "calls/s", "efficiency", "beside p50 ms", "beside p99 ms"),
    *("decision p99 ms", "prepare p99 ms", "cores"),
)


def rows(sizes: Sequence[Size]) -> Iterator[tuple[str, ...]]:
    """As in HEADINGS."""
    for size in sizes:
        times = (size.beside_p50_seconds, size.beside_p99_seconds, size.decision_p99_seconds, size.prepare_p99_seconds)
        yield (
            *(str(size.nodes), str(size.programs)),
            *(f"{size.tokens_per_second:.0f}", f"{size.calls_per_second:.1f}", f"{efficiency(size, sizes[0]):.3f}"),
            *(f"{1e3 * value:.1f}" for value in times),
            f"{sum(size.cores.values()):.2f}",
        )


def broken(sizes: Sequence[Size]) -> list[str]:
    """What does not hold: no call may fail, and every size must have been measured."""
    found = [f"{size.nodes} nodes: {error}" for size in sizes for error in size.first_errors]
    return found + [f"{size.nodes} nodes: no call ended" for size in sizes if not size.calls]
