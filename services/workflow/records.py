"""Records of programs that live: their calls, their threads, and what was asked of them."""

from dataclasses import dataclass, field

from services.common.forecast import NO_FORECAST, Forecast
from services.common.laws import Key
from services.workflow.learning import Question


class Habit:
    """The mean of the logarithms of what a thread did lately."""

    __slots__ = ("mean", "num")

    def __init__(self) -> None:
        self.num = 0
        self.mean = 0.0

    def add(self, value: float) -> None:
        self.num += 1
        self.mean += (value - self.mean) / min(self.num, 8)


@dataclass(slots=True, eq=False)
class Call:
    """A call, from its begin to its program's end."""

    call_id: str
    role: str
    thread: "Thread"
    began: float
    prompt_tokens: int
    uncached_tokens: int
    """As expected."""
    model: str
    parents: tuple[str, ...]
    turn: int
    output_tokens: int = 0
    tools: str = ""
    seconds: float = 0.0
    """Of an engine; 0 until it has ended."""
    ended: bool = False
    output: Question | None = None
    """Asked when it began."""
    remaining: Question | None = None
    """The same, without the chances: they are worked out again once the truth is known."""
    lived: int = 0
    """Stretches that what remained at its begin is known to have passed."""
    forecast: Forecast = NO_FORECAST
    expected_seconds: float = 0.0
    """That remain of its program, from its begin on."""


@dataclass(slots=True, eq=False)
class Thread:
    """A chain of calls, one at a time as a rule."""

    name: str
    agent: str
    live: dict[str, Call] = field(default_factory=dict[str, Call])
    last: Call | None = None
    """That ended, if any; not one that others of the thread outlived."""
    idle_since: float = 0.0
    returns: Question | None = None
    """Asked when it became idle."""
    returned_after: float = -1.0
    forecast: Forecast = NO_FORECAST
    """While it is idle."""
    expected_seconds: float = 0.0
    """The same, that remain from its next call on, times the chance that there is one."""
    outputs: Habit = field(default_factory=Habit)
    gaps: Habit = field(default_factory=Habit)


@dataclass(slots=True, eq=False)
class Program:
    """A program that lives."""

    program_id: str
    kinds: list[Key]
    """The most general first."""
    task: int
    """Hash of what it was asked at first."""
    calls: dict[str, Call] = field(default_factory=dict[str, Call])
    threads: dict[str, Thread] = field(default_factory=dict[str, Thread])
    num_live: int = 0
    num_ended: int = 0
    attained_seconds: float = 0.0
    """Of engines, all its calls."""
    heard: float = 0.0
    look_again: int = 4
    """Ended calls at which what its calls outlived is counted again."""
