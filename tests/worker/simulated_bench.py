"""A simulated engine's core on a virtual clock."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from services.common.clock import VirtualClock
from services.common.driver import Driver
from services.worker.simulated.core import Core, StepSeconds
from services.worker.simulated.cost import load_profile
from services.worker.simulated.events import Aborted, Event, Prioritized, Receipt, Report, Shape, Submitted

BLOCK = 4


def constant(seconds: float) -> StepSeconds:
    def cost(num_seqs: int, num_tokens: int, decode_context: int, prefill_pairs: float) -> float:
        return seconds

    return cost


@dataclass
class Bench:
    """A core on a virtual clock that records what it reports and checks it each time."""

    shape: Shape
    step_seconds: float | StepSeconds | None = None
    clock: VirtualClock = field(default_factory=VirtualClock)
    reports: list[tuple[float, Report]] = field(default_factory=list[tuple[float, Report]])
    cached: set[int] = field(default_factory=set[int])
    ended: dict[int, Receipt] = field(default_factory=dict[int, Receipt])
    tokens: dict[int, int] = field(default_factory=dict[int, int])

    def __post_init__(self) -> None:
        cost = self.step_seconds or load_profile("llama3-8b@a100-tp1").step_seconds
        self.core = Core(self.shape, cost if callable(cost) else constant(cost))
        self.driver = Driver[Event, Report](self.core, self.clock, self._take)

    def _take(self, report: Report) -> None:
        self.reports.append((self.clock.now(), report))
        assert not self.cached & set(report.stored)
        assert set(report.removed) <= self.cached
        self.cached.update(report.stored)
        self.cached.difference_update(report.removed)
        for key, num_tokens, receipt in report.progress:
            assert key not in self.ended
            assert num_tokens > self.tokens.get(key, 0) or receipt is not None
            self.tokens[key] = num_tokens
            if receipt is not None:
                self.ended[key] = receipt

    def submit(self, key: int, prompt: int, output: int, hashes: Sequence[int] = (), **more: int) -> None:
        self.driver.feed(Submitted(key, prompt, output, hashes, **more))
        self.core.check()

    def abort(self, key: int) -> None:
        self.driver.feed(Aborted(key))
        self.core.check()

    def prioritize(self, key: int, priority: int) -> None:
        self.driver.feed(Prioritized(key, priority))
        self.core.check()

    def run(self, until: float = float("inf")) -> None:
        while (due := self.clock.next_due()) is not None and due <= until:
            self.clock.step()
            self.core.check()
        self.clock.run(until)

    def times(self, key: int) -> list[float]:
        """When each report of a call came."""
        return [now for now, report in self.reports for progress in report.progress if progress.key == key]


def shape(num_blocks: int = 1000, num_seqs: int = 8, budget: int = 16) -> Shape:
    return Shape(num_blocks, BLOCK, num_seqs, budget)


def hashes(name: int, tokens: int) -> list[int]:
    """Names of a sequence's full blocks; those of different `name` never meet."""
    return [name * 10_000 + index for index in range(tokens // BLOCK)]
