"""What `bench.scale` measures, what it asserts of that, and how it is shown."""

from collections.abc import Iterator
from dataclasses import dataclass

from bench.measure import Summary

DECISION_METRIC = "legato_scheduler_decision_seconds"
MOST_DECISION_SECONDS = 0.020
MOST_GROWTH = 1.2


@dataclass(frozen=True, slots=True)
class Result:
    """Of one run."""

    workers: int
    profile: str
    machine: dict[str, str | int | None]
    seconds: float
    programs: int
    wanted_live_programs: int
    peak_live_programs: int
    mean_queued_calls: float
    calls: int
    lost_calls: int
    output_tokens: int
    decisions: int
    decision_p50_seconds: float
    decision_p99_seconds: float
    rss_bytes: list[tuple[float, int]]
    """Of the whole stack, as (seconds since the start, bytes)."""
    processes: int
    stack_cpu_seconds: float
    driver_cpu_seconds: float
    summary: Summary
    first_errors: list[str]

    @property
    def growth(self) -> float:
        """Highest resident memory of the last half of the run over that of the quarter before, when load was full."""
        early = [rss for at_s, rss in self.rss_bytes if self.seconds / 4 <= at_s < self.seconds / 2]
        late = [rss for at_s, rss in self.rss_bytes if at_s >= self.seconds / 2]
        return max(late) / max(early) if early and late else 1.0

    def broken(self) -> list[str]:
        """The assertions that do not hold."""
        p99_ms, most_ms = 1e3 * self.decision_p99_seconds, 1e3 * MOST_DECISION_SECONDS
        checks = (
            (self.lost_calls == 0, f"{self.lost_calls} of {self.calls} calls were lost"),
            (
                self.peak_live_programs >= self.wanted_live_programs,
                f"only {self.peak_live_programs} of {self.wanted_live_programs} programs were live at once",
            ),
            (self.decisions > 0, f"the stack exposes no {DECISION_METRIC}"),
            (p99_ms < most_ms, f"decision p99 is {p99_ms:.1f} ms, not under {most_ms:.0f} ms"),
            (self.growth < MOST_GROWTH, f"memory grew {self.growth:.2f}x in the second half, not under {MOST_GROWTH}x"),
        )
        return [message for holds, message in checks if not holds]

    def lines(self) -> Iterator[str]:
        """For people."""
        peak_rss = max((rss for _, rss in self.rss_bytes), default=0)
        cores = (self.stack_cpu_seconds / self.seconds, self.driver_cpu_seconds / self.seconds)
        yield f"{self.programs} programs, {self.peak_live_programs} at once, {self.workers} workers ({self.profile})"
        yield (
            f"{self.calls} calls in {self.seconds:.0f} s ({self.calls / self.seconds:.0f}/s, "
            f"{self.output_tokens / self.seconds:.0f} tokens/s), {self.lost_calls} lost, "
            f"{self.mean_queued_calls:.0f} queued on average"
        )
        yield (
            f"{self.decisions} decisions, p50 {1e3 * self.decision_p50_seconds:.2f} ms, "
            f"p99 {1e3 * self.decision_p99_seconds:.2f} ms"
        )
        yield (
            f"memory of {self.processes} processes {peak_rss / 2**20:.0f} MiB at most, "
            f"{self.growth:.2f}x in the second half"
        )
        yield f"processor: stack {cores[0]:.2f} cores, driver {cores[1]:.2f} cores"
        yield f"JCT p50 {self.summary.jct_p50:.1f} s, p99 {self.summary.jct_p99:.1f} s"
        yield from self.first_errors
