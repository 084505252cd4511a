"""Trails: what a program did so far, as far as something is to be learned from it when it has ended."""

from math import exp, inf, log, log1p
from typing import NamedTuple

from services.common.laws import Law
from services.scheduler.events import CallKey
from services.scheduler.records import Call

_STEPS = 64
"""Calls remembered of a program; of a longer one every second, every fourth, ..."""


class Step(NamedTuple):
    """One ended call."""

    agent: str
    submitted: float
    service_seconds: float
    attained_seconds: float
    """Of its program, by then."""


class Thread:
    """A chain of calls."""

    __slots__ = ("agent", "idle_since", "num_live")

    def __init__(self) -> None:
        self.num_live = 0
        self.idle_since = -inf
        self.agent = ""
        """Of its last call."""


class Trail:
    """Of one program. `attained`: up to where its service was learned from."""

    __slots__ = (
        "_stride",
        "_till_next",
        "attained",
        "decayed",
        "forecast",
        "kv_cost",
        "last_end",
        "newest",
        "running_since",
        "steps",
        "threads",
        "urgency",
        "virtual_finish",
    )

    def __init__(self, attained: float, virtual_finish: float) -> None:
        self.attained = attained
        self.virtual_finish = virtual_finish
        self.steps: list[Step] = []
        self.threads: dict[str, Thread] = {}
        self.kv_cost = 0.0
        """Token-times of its calls' KV: prompt * output + output ** 2 / 2 for each."""
        self.decayed = -inf
        """Logarithm of the tokens that it was served, growing in weight with time."""
        self.urgency = 0.0
        self.last_end = 0.0
        self.running_since = inf
        """When its newest placed call got its place; inf: none runs."""
        self.newest: CallKey | None = None
        """The call that began last, if it lives."""
        self.forecast: tuple[Law, float] | None = None
        """What is said to be left at that call, from that much service on."""
        self._stride = self._till_next = 1

    def thread(self, call: Call) -> Thread:
        """The chain that the call belongs to."""
        thread = self.threads.get(call.thread)
        if thread is None:
            thread = self.threads[call.thread] = Thread()
        return thread

    def add(self, step: Step) -> None:
        """A call ended."""
        self._till_next -= 1
        if self._till_next:
            return
        if len(self.steps) == _STEPS:
            del self.steps[::2]
            self._stride *= 2
        self._till_next = self._stride
        self.steps.append(step)

    def add_tokens(self, tokens: float, age: float) -> None:
        """Tokens count exp(age) times what they would have counted at age 0."""
        if tokens > 0:
            more = log(tokens) + age
            high, low = max(self.decayed, more), min(self.decayed, more)
            self.decayed = high + log1p(exp(low - high))
