"""What a recorded run says: completion times, first tokens, and where each program's time went.

Everything is computed from programs whose calls carry `Measured`, as `bench.drive` returns them and trace files keep
them. A program's completion time (JCT) runs from its arrival to the end of its last call. Its time is attributed along
its critical path: from the last call to end, back to the parent that ended last, and so on; the parts add up to the
JCT even where calls ran side by side.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.statistics import quantile
from sim.trace import Call, Program

KINDS = ("queue", "prefill", "decode", "tool", "other")
"""`tool` is all waiting between calls; `other` what neither scheduler nor engine accounts for: gateway and client."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a program's critical path, in seconds since the program's arrival."""

    kind: str
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        return self.end_s - self.start_s


def failures(program: Program) -> list[str]:
    """Why the program did not complete: one line for each call that failed or was never issued."""
    lines = [f"call {call.id}: {call.measured.error}" for call in program.calls if call.measured.error]
    if not lines:
        lines = [f"call {call.id}: not run" for call in program.calls if call.measured.llm_s is None]
    return lines


def end_s(call: Call) -> float:
    """When a call that completed ended, in seconds since its program's arrival."""
    assert call.measured.start_s is not None
    assert call.measured.llm_s is not None
    return call.measured.start_s + call.measured.llm_s


def jct_s(program: Program) -> float:
    """Completion time of a program that completed."""
    return max(end_s(call) for call in program.calls)


def critical_path(program: Program) -> list[Span]:
    """Spans from arrival to completion, without gaps or overlaps."""
    call: Call | None = max(program.calls, key=end_s)
    spans: list[Span] = []
    while call is not None:
        spans += reversed(_spans(call))
        parent = max((program.calls[index] for index in call.parents), key=end_s, default=None)
        free_s = end_s(parent) if parent else 0.0
        start_s = call.measured.start_s or 0.0
        spans.append(Span("tool" if parent else "other", free_s, start_s))
        call = parent
    return [span for span in reversed(spans) if span.seconds > 0]


def _spans(call: Call) -> list[Span]:
    """The parts of one call in order. A part is cut where the client saw the call end."""
    measured, at_s = call.measured, call.measured.start_s or 0.0
    spans: list[Span] = []
    for kind, seconds in (("queue", measured.queue_s), ("prefill", measured.prefill_s), ("decode", measured.decode_s)):
        until_s = min(at_s + (seconds or 0.0), end_s(call))
        spans.append(Span(kind, at_s, until_s))
        at_s = until_s
    return [*spans, Span("other", at_s, end_s(call))]


@dataclass(frozen=True, slots=True)
class Summary:
    """Of the completed programs of one run; seconds."""

    programs: int
    failed: int
    calls: int
    jct_mean: float
    jct_p50: float
    jct_p95: float
    jct_p99: float
    ttft_p50: float
    ttft_p99: float
    parts: dict[str, float]
    """Mean seconds per program on its critical path, by kind."""
    cached_share: float
    """Of the prompt tokens, how many came from a cache."""


def summarise(programs: Sequence[Program]) -> Summary:
    done = [program for program in programs if not failures(program)]
    jcts = [jct_s(program) for program in done]
    calls = [call.measured for program in done for call in program.calls]
    first = [measured.ttft_s for measured in calls if measured.ttft_s is not None]
    spans = [span for program in done for span in critical_path(program)]
    prompt_tokens = sum(measured.rec_in or 0 for measured in calls)
    return Summary(
        programs=len(programs),
        failed=len(programs) - len(done),
        calls=len(calls),
        jct_mean=sum(jcts) / len(jcts) if jcts else 0.0,
        jct_p50=quantile(jcts, 0.5),
        jct_p95=quantile(jcts, 0.95),
        jct_p99=quantile(jcts, 0.99),
        ttft_p50=quantile(first, 0.5),
        ttft_p99=quantile(first, 0.99),
        parts={kind: sum(span.seconds for span in spans if span.kind == kind) / max(1, len(done)) for kind in KINDS},
        cached_share=sum(measured.rec_cached or 0 for measured in calls) / max(1, prompt_tokens),
    )


def by_shape(programs: Sequence[Program]) -> dict[str, Summary]:
    """A summary for each workload in order of name, and "overall"."""
    shapes = sorted({program.workload for program in programs})
    return {
        **{shape: summarise([program for program in programs if program.workload == shape]) for shape in shapes},
        "overall": summarise(programs),
    }


@dataclass(frozen=True, slots=True)
class Level:
    """A count over time: `counts[i]` holds from `times_s[i]` until the next."""

    times_s: list[float]
    counts: list[int]

    @property
    def peak(self) -> int:
        return max(self.counts, default=0)

    @property
    def mean(self) -> float:
        """Over time."""
        steps = list(zip(self.times_s, self.times_s[1:], self.counts, strict=False))
        length_s = sum(end - start for start, end, _ in steps)
        return sum((end - start) * count for start, end, count in steps) / length_s if length_s else 0.0

    @property
    def busy_share(self) -> float:
        """Share of the time in which the count is above 0."""
        steps = list(zip(self.times_s, self.times_s[1:], self.counts, strict=False))
        length_s = sum(end - start for start, end, _ in steps)
        return sum(end - start for start, end, count in steps if count) / length_s if length_s else 0.0


def level(intervals: Iterable[tuple[float, float]]) -> Level:
    """How many of the intervals are open at each time."""
    changes: dict[float, int] = {}
    for start_s, stop_s in intervals:
        changes[start_s] = changes.get(start_s, 0) + 1
        changes[stop_s] = changes.get(stop_s, 0) - 1
    result, count = Level([], []), 0
    for at_s in sorted(changes):
        count += changes[at_s]
        result.times_s.append(at_s)
        result.counts.append(count)
    return result


def live_programs(programs: Sequence[Program]) -> Level:
    """Programs between arrival and completion."""
    done = [program for program in programs if not failures(program)]
    return level(((program.arrival_s or 0.0), (program.arrival_s or 0.0) + jct_s(program)) for program in done)


def queued_calls(programs: Sequence[Program]) -> Level:
    """Calls that wait for an engine, as the scheduler's own queue times say. From the first call to the last."""
    spans: list[tuple[float, float]] = []
    for program in programs:
        for call in program.calls:
            if call.measured.llm_s is not None:
                start_s = (program.arrival_s or 0.0) + (call.measured.start_s or 0.0)
                spans.append((start_s, start_s + (call.measured.queue_s or 0.0)))
    return level(spans)
