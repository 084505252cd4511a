"""What retention policies judge: segments of KV, and the programs that they are kept for.

A segment is a run of blocks that follow one another in a chain and have the same users; a chain is cut where users
part (a shared system prompt is a segment of its own). Segments form a tree, and what leaves, leaves from the leaves,
last block first: a prefix is never dropped before what extends it.
"""

from dataclasses import dataclass, field
from math import inf

from services.common.laws import Law


@dataclass(slots=True, eq=False)
class Program:
    """One program, as far as retention needs it. Its users are its threads; they are judged together."""

    program_id: str
    tenant: str = ""
    agent: str = ""
    """Of its newest call."""
    arrived: float = 0.0
    num_running: int = 0
    """Calls that run now: what they use is not idle."""
    idle_since: float = 0.0
    """When its last running call ended."""
    num_calls: int = 0
    context_blocks: int = 0
    """Blocks of its longest live chain."""
    returns: Law | None = None
    """Law of the time from `idle_since` to its next LLM request, from whoever forecasts; None: nobody did."""
    next_use: float = inf
    """When it really comes back; known in a replay only."""
    steps_to_execution: float = inf
    """Calls of others before its next one, where a declared or learned workflow tells (KVFlow, ScaleSim)."""


@dataclass(slots=True, eq=False)
class Thread:
    """One thread of a program in one namespace: a user of KV in its own right, that comes back, or does not, in its own
    time. A program's helpers end while it lives on."""

    thread_id: str
    """Unique among all threads of all programs."""
    program: Program
    agent: str = ""
    """Of its newest call."""
    num_running: int = 0
    began: float = 0.0
    """When its newest call began."""
    idle_since: float = 0.0
    """When its last running call ended."""
    num_calls: int = 0
    returns: Law | None = None
    """Of the time from `idle_since` to its next call; None: nobody knows."""
    pace: int | None = None
    """A logarithm of how long its last turn was, from one call's begin to the next one's: the fast stay fast."""
    turns: Law | None = None
    """Of the time from `began` to its next call, while one runs; None: nobody knows."""
    next_use: float = inf
    """When it really comes back; known in a replay only."""
    name: str = ""
    """Inside its program; the agent, where it has none of its own."""

    @property
    def tenant(self) -> str:
        return self.program.tenant


@dataclass(slots=True, eq=False)
class Segment:
    """A run of blocks in one tier."""

    first_block: int
    """Blocks before it in its chain."""
    num_blocks: int
    num_bytes: int
    num_tokens: int
    created: float
    last_used: float
    num_uses: int = 1
    """How many calls used it."""
    programs: dict[str, Program] = field(default_factory=dict[str, Program])
    """Whose newest chains run through it, by program_id. Empty: nobody's (superseded, or their programs ended)."""
    recompute_seconds: float = 0.0
    """Engine-seconds to compute it again, behind its prefix."""
    reload_seconds: float = inf
    """To bring it back from the next tier; infinite: it is not there."""
    floor: float = 0.0
    """The price floor when it was last used: the rank of what had been evicted last by then (GreedyDual's clock)."""
    num_newcomers: int = 0
    """How many of its uses since `created` were by threads whose chain it was not on before, its first use aside."""
    threads: dict[str, Thread] = field(default_factory=dict[str, Thread])
    """Whose newest chains run through it, by thread_id."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """What a policy may know of the tier as a whole."""

    used_fraction: float
    """0 to 1."""
    floor: float
    """Rank of the last segment evicted: the price of room."""
    longest_idle_seconds: float
    """Of all its segments."""
    largest_bytes: int
    """Of its largest segment."""
    queue_delay_seconds: float = 0.0
    """What a call whose KV is gone waits longer than one whose KV is here, beside computing it; 0: not known."""
