"""Real and simulated figures beside one another, and what the difference consists of."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from bench.fidelity.replay import EngineTime, Key
from bench.measure import KINDS, end_s, jct_s, summarise
from bench.statistics import quantile
from sim.trace import Call, Measured, Program

MEAN_GOAL, TAIL_GOAL = 0.05, 0.10


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of both sides."""

    name: str
    real: float
    """Mean of the real runs."""
    simulated: float
    spread: float
    """Between the real runs: largest less smallest, over the mean. No model comes nearer than this by skill."""
    goal: float

    @property
    def error(self) -> float:
        """Simulated over real, less one."""
        return self.simulated / self.real - 1 if self.real else 0.0

    @property
    def met(self) -> bool:
        return abs(self.error) <= self.goal


def figures(done: Sequence[Program]) -> dict[str, float]:
    """Of one run of programs that all completed."""
    calls = [call.measured for program in done for call in program.calls]
    first = [call.ttft_s or 0.0 for call in calls]
    gaps = [_gap(call) for call in calls if (call.rec_out or 0) > 1]
    whole = [jct_s(program) for program in done]
    named = {"TTFT": first, "TPOT": gaps, "JCT": whole}
    found = {f"{name} mean": sum(values) / len(values) for name, values in named.items()}
    found |= {f"{name} p95": quantile(values, 0.95) for name, values in named.items()}
    return found | {"cached share": summarise(done).cached_share}


def _gap(call: Measured) -> float:
    """Seconds between two tokens of its output."""
    return ((call.llm_s or 0.0) - (call.ttft_s or 0.0)) / ((call.rec_out or 2) - 1)


def compare(runs: Sequence[Sequence[Program]], simulated: Sequence[Program]) -> list[Figure]:
    """The real runs, which are of the same programs, beside the simulated one."""
    real, model = [figures(run) for run in runs], figures(simulated)
    compared: list[Figure] = []
    for name, value in model.items():
        values = [run[name] for run in real]
        mean = sum(values) / len(values)
        spread = (max(values) - min(values)) / mean if mean else 0.0
        compared.append(Figure(name, mean, value, spread, TAIL_GOAL if name.endswith("p95") else MEAN_GOAL))
    return compared


def causes(
    real: Sequence[Program], simulated: Sequence[Program], replayed: Mapping[Key, EngineTime], per_token: float
) -> dict[str, float]:
    """What the simulated mean JCT has too much (or, negative, too little), in seconds, by the part of the model.

    Along each program's critical path; the parts add up to the whole. `per_token`: seconds that a token of prefill
    takes, by which a difference in cached tokens is valued.
    """
    count = len(real)
    parts, model = summarise(real).parts, summarise(simulated).parts
    over = {kind: model[kind] - parts[kind] for kind in KINDS}
    step = sum(_step_error(program, call, replayed) for program in real for call in path(program)) / count
    fewer = sum(_computed(program) for program in simulated) - sum(_computed(program) for program in real)
    cache = per_token * fewer / count
    return {
        "gateway, rpc and client": over["other"],
        "queue": over["queue"],
        "cache": cache,
        "step time": step,
        "what is batched with what": over["prefill"] + over["decode"] - cache - step,
        "tools": over["tool"],
    }


def path(program: Program) -> Iterator[Call]:
    """The calls of a program's critical path, last to first."""
    call: Call | None = max(program.calls, key=end_s)
    while call is not None:
        yield call
        call = max((program.calls[index] for index in call.parents), key=end_s, default=None)


def _step_error(program: Program, call: Call, replayed: Mapping[Key, EngineTime]) -> float:
    time, measured = replayed[program.program_id, call.id], call.measured
    return time.prefill + time.decode - (measured.prefill_s or 0.0) - (measured.decode_s or 0.0)


def _computed(program: Program) -> int:
    """Prompt tokens that were computed, along the critical path."""
    return sum((call.measured.rec_in or 0) - (call.measured.rec_cached or 0) for call in path(program))
