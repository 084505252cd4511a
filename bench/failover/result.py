"""What `bench.failover` found, and how it is shown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bench.statistics import quantile


@dataclass(slots=True)
class Finding:
    """Of one kind of fault. Seconds from the signal."""

    service: str
    what: str
    rounds: int = 0
    seconds: list[float] = field(default_factory=list[float])
    longest: list[float] = field(default_factory=list[float])
    """Of each round, the longest silence of any stream from the signal on."""
    wrong: list[str] = field(default_factory=list[str])

    @property
    def p50(self) -> float:
        return quantile(self.seconds, 0.5)

    @property
    def p99(self) -> float:
        return quantile(self.seconds, 0.99)


HEADINGS = ("killed", "rounds", "n", "p50 s", "p99 s", "max s", "silence s", "wrong")


def rows(findings: Sequence[Finding]) -> Iterator[tuple[str, ...]]:
    """As in HEADINGS."""
    for finding in findings:
        seconds = (finding.p50, finding.p99, max(finding.seconds, default=0.0), quantile(finding.longest, 0.5))
        counts = (str(finding.rounds), str(len(finding.seconds)))
        yield (finding.service, *counts, *(f"{value:.2f}" for value in seconds), str(len(finding.wrong)))


def broken(findings: Sequence[Finding]) -> list[str]:
    """What was not as it should be: a call failed, tokens were lost or doubled, or nothing was measured."""
    found = [f"{finding.service}: {line}" for finding in findings for line in finding.wrong]
    return found + [f"{finding.service}: nothing was measured" for finding in findings if not finding.seconds]
