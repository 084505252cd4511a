"""What a run found, for people and as JSON: the faults, what each cost, and whether the invariants hold."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bench.chaos.conductor import Injected
from bench.chaos.invariants import Checked
from bench.chaos.record import Record, Silence

_AFTERMATH_SECONDS = 10.0
"""A silence that begins so long after a fault's end is none of its."""
_SHOWN_SILENCES = 10


@dataclass(slots=True)
class Cost:
    """Of one fault, or of all of one kind. Where faults met, what happened counts for each of them."""

    faults: int = 0
    longest_silence_seconds: float = 0.0
    """Of a stream that had begun."""
    restarts: int = 0
    """Times that a call lost its worker."""
    repeats: int = 0
    """Times that a client had to ask again."""

    def add(self, other: "Cost") -> None:
        self.faults += other.faults
        self.longest_silence_seconds = max(self.longest_silence_seconds, other.longest_silence_seconds)
        self.restarts += other.restarts
        self.repeats += other.repeats


@dataclass(slots=True)
class Report:
    """Of one run."""

    seed: int
    seconds: float
    num_live: int
    record: Record = field(default_factory=Record)
    faults: list[Injected] = field(default_factory=list[Injected])
    """In the order of their beginning."""
    checked: list[Checked] = field(default_factory=list[Checked])
    left_out: list[str] = field(default_factory=list[str])
    """Kinds of faults that this machine cannot do, and why."""
    memory: Mapping[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])
    """Bytes of each service under load before the first fault, and in the end."""

    @property
    def broken(self) -> list[Checked]:
        return [one for one in self.checked if one.broken]

    def costs(self) -> dict[tuple[str, str], Cost]:
        """By kind and target."""
        costs: dict[tuple[str, str], Cost] = defaultdict(Cost)
        for injected in self.faults:
            costs[injected.planned.kind, injected.planned.fault.target].add(_cost(injected, self.record))
        return costs

    def longest_silences(self) -> list[str]:
        """Of streams that had begun, and the faults that may have had a part in each."""
        start_at = self.faults[0].began - self.faults[0].planned.at if self.faults else 0.0
        longest = sorted(self.record.silences, key=lambda silence: silence.seconds, reverse=True)
        return [
            f"{silence.seconds:.1f} s from {silence.began - start_at:.1f} s on ({silence.door}): "
            + "; ".join(str(one.planned).strip() for one in self.faults if _meet(one, silence))
            for silence in longest[:_SHOWN_SILENCES]
        ]

    def lines(self) -> Iterator[str]:
        """For people."""
        record = self.record
        yield f"{len(self.faults)} faults in {self.seconds:.0f} s (seed {self.seed}), {self.num_live} programs at once"
        yield from (f"left out: {line}" for line in self.left_out)
        yield f"{record.num_completed} of {record.num_programs} programs, {len(record.calls)} calls"
        yield f"{'kind':<12} {'target':<14} {'faults':>6} {'silence':>9} {'restarts':>8} {'repeats':>8}"
        for (kind, target), cost in sorted(self.costs().items()):
            silence = f"{cost.longest_silence_seconds:7.1f} s"
            yield f"{kind:<12} {target:<14} {cost.faults:>6} {silence} {cost.restarts:>8} {cost.repeats:>8}"
        for why, count in record.counts().items():
            yield f"asked again {count} times: {why}"
        yield from (f"silent for {silence}" for silence in self.longest_silences())
        yield from (one.line for one in self.checked)

    def json(self) -> dict[str, Any]:
        """For machines."""
        kinds: dict[str, Cost] = defaultdict(Cost)
        for (kind, _), cost in self.costs().items():
            kinds[kind].add(cost)
        return {
            "seed": self.seed,
            "seconds": self.seconds,
            "programs_at_a_time": self.num_live,
            "programs": self.record.num_programs,
            "completed": self.record.num_completed,
            "calls": len(self.record.calls),
            "faults": len(self.faults),
            "left_out": list(self.left_out),
            "by_kind": {kind: _json(cost) for kind, cost in sorted(kinds.items())},
            "by_target": {f"{kind} {target}": _json(cost) for (kind, target), cost in sorted(self.costs().items())},
            "longest_silences": self.longest_silences(),
            "asked_again": self.record.counts(),
            "invariants": {one.what: list(one.broken) or "holds" for one in self.checked},
            "memory_mib": {name: [before >> 20, after >> 20] for name, (before, after) in self.memory.items()},
            "notes": {one.what: one.note for one in self.checked if one.note},
        }


def _json(cost: Cost) -> dict[str, float]:
    return {
        "faults": cost.faults,
        "longest_silence_seconds": round(cost.longest_silence_seconds, 2),
        "restarts": cost.restarts,
        "repeats": cost.repeats,
    }


def _meet(injected: Injected, silence: Silence) -> bool:
    return silence.ended > injected.began and silence.began < injected.ended + _AFTERMATH_SECONDS


def _cost(injected: Injected, record: Record) -> Cost:
    began, until = injected.began, injected.ended + _AFTERMATH_SECONDS
    silences = (silence.seconds for silence in record.silences if _meet(injected, silence))
    restarts = (call.num_restarts for call in record.calls if call.ended > began and call.began < injected.ended)
    repeats = sum(began <= at <= until for at, _, _ in record.repeats)
    return Cost(1, max(silences, default=0.0), sum(restarts), repeats)
