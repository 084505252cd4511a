"""How long to keep a context whose tool runs: learned laws against ski rental (algorithms.md 3.5)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.policies import synthetic
from bench.reproductions import Row
from bench.reproductions.runs import asked, capacity
from services.common.laws import Intervals, Lomax
from sim import workload
from sim.experiment import Setup
from sim.limits import ttl
from sim.trace import Program

TITLE = "TTL: what is lost by not knowing the next use"
HEADLINE = (
    "Keeping a context for as long as computing it again is worth (ski rental) costs at most twice the least "
    "possible; a learned time must cost less than that."
)
SETTING = (
    "Each wait between a call and the next that has its prefix: recorded waits of two traces and heavy-tailed ones, "
    "program by program, the law learned from those before (services/common/laws). To keep a token for a second costs"
    " one second of an engine over the tokens of its cache, not to keep it its prefill."
)
DIFFERENCE = "Waits follow one another without a queue; each context is priced alone, at one price."
_SETUP = Setup("llama3-8b@a100-tp1", 1)
_PRIOR = Lomax(1.0, 5.0)


@dataclass(frozen=True, slots=True)
class Use:
    """A context that waits for its next call."""

    agent: str
    gain: float
    """Engine seconds to compute it again."""
    rent: float
    """Engine seconds for each second that it is kept."""
    seconds: float


def measure() -> Sequence[Row]:
    sets = {
        "weka_claude_code": workload.load("weka_claude_code", 120, max_tokens=200_000),
        "agentcgroup_claude_code": workload.load("agentcgroup_claude_code", 120),
        "heavy-tailed gaps": synthetic.coding(120, 1, gap_seconds=30.0, gap_sigma=1.5),
    }
    return [row for name, programs in sets.items() for row in _rows(name, list(_uses(programs)))]


def _rows(name: str, uses: Sequence[Use]) -> Sequence[Row]:
    learned = list(_learned(uses))
    rental = [ttl.ski_rental(use.gain, use.rent) for use in uses]
    least = sum(ttl.least_cost(use.gain, use.rent, use.seconds) for use in uses)
    forever = sum(ttl.cost(use.gain, use.rent, 1e12, use.seconds) for use in uses) / least
    never = sum(use.gain for use in uses) / least
    costs = [1 + _regret(uses, times) / least for times in (rental, learned)]
    return [
        Row(f"{name}: ski rental, cost over the least", "at most 2", f"{costs[0]:.3f}", costs[0] <= 2.0),
        Row(f"{name}: learned law", "less than ski rental", f"{costs[1]:.3f}", costs[1] < costs[0]),
        Row(f"{name}: always kept; never kept", "-", f"{forever:.2f}; {never:.2f}"),
    ]


def _regret(uses: Sequence[Use], times: Sequence[float]) -> float:
    return ttl.regret((use.gain, use.rent, time, use.seconds) for use, time in zip(uses, times, strict=True))


def _learned(uses: Sequence[Use]) -> Iterator[float]:
    """The best time by the law of all waits seen before."""
    intervals = Intervals(_PRIOR, 64, 1, 2.0)
    for number, use in enumerate(uses):
        keys = [(), (use.agent,)]
        yield ttl.best_ttl(intervals.law(keys), use.gain, use.rent)
        intervals.close(keys, str(number), use.seconds, happened=True)


def _uses(programs: Sequence[Program]) -> Iterator[Use]:
    cluster = capacity(_SETUP)
    for program, demand, path in zip(programs, *asked(programs, cluster), strict=True):
        for reuse in demand.reuses:
            seconds = path.heads[reuse.call] - path.end(reuse.last)
            if seconds > 0:
                gain = cluster.prefill_seconds(reuse.tokens, reuse.pairs) - cluster.step_seconds(1)
                agent = program.calls[reuse.last].agent
                yield Use(agent, max(gain, 1e-6), reuse.tokens / cluster.kv_tokens, seconds)
