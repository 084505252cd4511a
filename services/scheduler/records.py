"""What the core remembers: programs, calls and workers. Only the core and its parts mutate them."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING

from services.scheduler.events import CallKey, CallSubmitted, LoadReported, TokenUsage, WorkerJoined
from services.scheduler.pool_events import NO_PLAN
from services.scheduler.prefixes import Marks, Prefixes, depth, marks_of
from services.scheduler.service_class import ServiceClass
from services.scheduler.tenants import Tenant

if TYPE_CHECKING:
    from services.scheduler.expected import Expected
    from services.scheduler.ledger import Context
    from services.scheduler.outlook import Outlook
    from services.scheduler.prospects import Found

_MEAN_OUTPUT = 0.5
"""Of its output a running call has so much, in the mean."""
_MOVED_AFTER = 8
"""Placements beside other pools, after which a program is taken to have left a pool for good."""


@dataclass(slots=True)
class Program:
    """One run of an agent program."""

    program_id: str
    tenant: str
    started: float
    last_active: float
    account: Tenant = field(default_factory=lambda: Tenant(""))
    """Its tenant's."""
    agent: str = ""
    """Of its first call: with the tenant, what kind of program it is."""
    service_class: ServiceClass = ServiceClass.DEFAULT
    """Of its newest call."""
    deadline: float = inf
    """When it is wanted complete."""
    ended: float | None = None
    ending: bool = False
    """Its end was announced; it ends with its last call."""
    num_queued: int = 0
    num_paused: int = 0
    """Of the queued calls, those in the lobby: no worker has room for what the program holds in KV."""
    home: str = ""
    """The worker that has room for it, or where its newest call was placed."""
    admitted: float = 0.0
    """When it was last let out of the lobby, or began without."""
    num_running: int = 0
    num_finished: int = 0
    num_restarted: int = 0
    num_lost: int = 0
    """Running calls whose gateway went away."""
    executed_seconds: float = 0.0
    """That all finished calls spent in engines, beside others (Autellix's T_p)."""
    served_seconds: float = 0.0
    """Engine seconds of all calls."""
    attained_seconds: float = 0.0
    """Engine seconds along the longest chain of calls seen (ATLAS's scalar)."""
    waited_seconds: float = 0.0
    """Queue seconds that count towards starvation (W_p)."""
    queue_seconds: float = 0.0
    usage: TokenUsage = field(default_factory=TokenUsage)
    restored: bool = False
    """It ran under an earlier scheduler: which pools it used is not known."""
    pinned: str = ""
    """The worker to which placement binds it, if it does."""
    num_placed: int = 0
    pools: dict[str, int] = field(default_factory=dict[str, int])
    """The pools beside whose workers its calls ran, each with the number of the last such placement."""

    @property
    def num_live(self) -> int:
        """Calls queued or running."""
        return self.num_queued + self.num_running

    @property
    def paused(self) -> bool:
        """Its calls wait until there is room for it."""
        return self.num_paused > 0

    def charge(self, call: Call, seconds: float, service_seconds: float, usage: TokenUsage) -> None:
        """A call of it ended, after so long in an engine and so many engine seconds (engine_seconds.py)."""
        self.num_finished += 1
        self.serve(call, seconds, service_seconds)
        self.usage = self.usage.plus(usage)

    def serve(self, call: Call, seconds: float, service_seconds: float) -> None:
        """A call of it spent so long in an engine, and got so many engine seconds there."""
        call.executed_seconds += seconds
        call.served_seconds += service_seconds
        self.executed_seconds += seconds
        self.served_seconds += service_seconds
        call.inherited_seconds += service_seconds
        self.attained_seconds = max(self.attained_seconds, call.inherited_seconds)

    def use(self, pool_id: str) -> None:
        """A call of it was placed beside that pool (empty: beside none)."""
        self.num_placed += 1
        if pool_id:
            self.pools[pool_id] = self.num_placed

    def left_pools(self) -> list[str]:
        """Strike and return the pools that it has left for good: what they keep for it alone was copied, not moved."""
        left = [pool_id for pool_id, last in self.pools.items() if self.num_placed - last >= _MOVED_AFTER]
        for pool_id in left:
            del self.pools[pool_id]
        return left


@dataclass(frozen=True, slots=True)
class Hold:
    """Placement's decision that a call waits for a busy worker."""

    outlook: Outlook
    """The worker's; the call is in its line."""
    kv_blocks: int
    """That it will need there, beside what it shares with calls placed there."""
    uncached_tokens: int
    """Of the prompt: neither cached there, nor brought."""
    cost: float
    """Predicted seconds until completion, and what else was weighed."""
    judged_at: float
    hand_off: bool
    """It is to be prefilled there."""
    found: Found
    """What was found out for it, good for as long as the decision."""


class Call:
    """One call, queued (no worker_id) or placed. Compared by identity."""

    __slots__ = (
        "agent",
        "arrived",
        "attempt",
        "avoided",
        "block_hashes",
        "context",
        "executed_seconds",
        "expected",
        "expected_end",
        "expected_output",
        "forecast",
        "generated_tokens",
        "hand_off",
        "handed_off",
        "hold",
        "in_lobby",
        "inherited_seconds",
        "key",
        "kv",
        "kv_blocks",
        "level",
        "link",
        "marks",
        "max_tokens",
        "model",
        "order",
        "overtaken",
        "paused_seconds",
        "placed_at",
        "placed_marks",
        "prefill_seconds",
        "prefilled_at",
        "priority",
        "program",
        "promoted",
        "prompt_tokens",
        "queued_at",
        "restored",
        "resumed",
        "said",
        "served_seconds",
        "shelved",
        "thread",
        "uncached_tokens",
        "waiting_since",
        "worker_id",
    )

    expected: Expected
    """Set when it begins, and again whenever it is queued."""

    def __init__(self, event: CallSubmitted, program: Program, now: float) -> None:
        self.key: CallKey = (event.program_id, event.call_id)
        self.program = program
        self.link = event.link
        self.model = event.model
        self.agent = event.agent
        self.thread = event.thread
        self.said = event.forecast
        """By its caller."""
        self.forecast = event.forecast
        """That, and what the workflow service says besides."""
        self.prompt_tokens = event.prompt_tokens
        """Generated tokens of lost attempts included."""
        self.max_tokens = event.max_tokens
        self.block_hashes = event.block_hashes
        self.marks = marks_of(event.block_hashes)
        self.priority = event.priority
        self.arrived = now
        self.inherited_seconds = program.attained_seconds
        self.executed_seconds = 0.0
        """In engines, so far."""
        self.served_seconds = 0.0
        """Engine seconds that its program was charged for it."""
        self.expected_output = 1.0
        """Tokens that it will still generate."""
        self.generated_tokens = 0
        """By lost attempts; they count among the prompt's."""
        self.attempt = event.attempt
        self.worker_id = ""
        self.queued_at = now
        """When it was queued last."""
        self.waiting_since = now
        """As `queued_at`, but starts again when the call is promoted (W_c = now - waiting_since)."""
        self.promoted = False
        """It starved and was moved to the front."""
        self.restored = False
        """Announced as running by its gateway: the scheduler did not choose its place."""
        self.shelved = False
        """In the queue, but out of sight: no worker that is there takes a prompt that long."""
        self.in_lobby = False
        """In the queue, but out of placement's sight: its program is not let in."""
        self.resumed = False
        """It waits in the lobby for a program that was let in before, and goes first."""
        self.overtaken = 0
        """Programs that were let in before it though they came after it in the lobby."""
        self.paused_seconds = 0.0
        """In the lobby, until it was let in."""
        self.context: Context | None = None
        """What its program has on a worker's ledger for it."""
        self.avoided: dict[str, LoadReported] = {}
        """Workers that lost it, with their load then: see `Worker.lost`. At most one for each attempt."""
        self.hold: Hold | None = None
        """Belongs to placement."""
        self.level = 0
        """Of urgency to its engine, by the ordering."""
        self.order: tuple[float, ...] = ()
        """Its place in the queue."""
        self.placed_at = 0.0
        self.expected_end = 0.0
        self.kv_blocks = 0
        self.placed_marks: Marks = ()
        """Of its prompt, as its worker's ledger has them."""
        self.uncached_tokens = 0
        """Prompt tokens still to prefill on the worker."""
        self.kv = NO_PLAN
        """As it was told with its place."""
        self.hand_off = False
        """Its attempt prefills only."""
        self.prefill_seconds = 0.0
        """Of its attempt, as predicted."""
        self.handed_off = event.attempt > 0
        """An attempt of it has prefilled and handed it on, or may have under an earlier scheduler: it is whole now."""
        self.prefilled_at: str | None = None
        """While it waits after that: the pool that is getting its blocks, empty if that is not known."""

    @property
    def may_hand_off(self) -> bool:
        """Two workers may share it: it has blocks, a token to decode after the first, and was not shared before."""
        if self.handed_off or not self.block_hashes:
            return False
        return not self.max_tokens or self.max_tokens - self.generated_tokens > 1

    @property
    def remaining_output(self) -> float:
        """Tokens that its attempt is expected to generate."""
        return 1.0 if self.hand_off else self.expected_output


@dataclass(slots=True, eq=False)
class Worker:
    """One worker and the ledger of what was placed there."""

    description: WorkerJoined
    load: LoadReported
    placed: dict[CallKey, Call] = field(default_factory=dict[CallKey, Call])
    prefixes: Prefixes[Call] = field(default_factory=Prefixes["Call"])
    """Of the placed calls' prompts."""
    own_blocks: int = 0
    """Predicted blocks of the placed calls beyond those."""
    uncached_tokens: int = 0
    """Prompt tokens of placed calls that wait for their prefill."""
    ends: list[float] = field(default_factory=list[float])
    """When the placed calls are expected to end, ascending."""
    unclaimed: int = 0
    """Calls that ran here when it joined, as far as no gateway has announced them."""
    shunned: bool = False
    """Some call was lost here since the last report."""
    changes: list[Worker] = field(default_factory=list["Worker"])
    """Where it is entered when what it has ahead of it changes. Who empties the list resets `changed`."""
    changed: bool = False

    @property
    def worker_id(self) -> str:
        return self.description.worker_id

    @property
    def occupied(self) -> int:
        """Calls that it has."""
        return len(self.placed) + self.unclaimed

    @property
    def kv_blocks(self) -> int:
        """Predicted different blocks of the placed calls."""
        return self.own_blocks + self.prefixes.blocks

    def touch(self) -> None:
        """What it has ahead of it changed."""
        if not self.changed:
            self.changed = True
            self.changes.append(self)

    def blocks_for(self, call: Call, output_tokens: float) -> int:
        """KV blocks that the call will hold here, in the mean over its decode: calls do not end all at once."""
        return -(-(call.prompt_tokens + int(_MEAN_OUTPUT * output_tokens)) // self.description.block_size)

    def marks(self, call: Call) -> Marks:
        """Of the call's prompt; none where its blocks are longer than those here."""
        return call.marks if len(call.block_hashes) * self.description.block_size <= call.prompt_tokens else ()

    def shared_blocks(self, call: Call) -> int:
        """Leading blocks of its prompt that placed calls have, or are about to compute."""
        return self.prefixes.common(self.marks(call))

    def open(self, lookahead_calls: int) -> bool:
        """May it take one more call, KV aside?"""
        return (
            self.occupied < self.description.max_num_seqs + lookahead_calls
            and self.load.num_waiting <= lookahead_calls
            and not self.load.draining
        )

    def report(self, load: LoadReported) -> None:
        """Its counters now. They lag behind the ledger, so of calls not in the ledger they only lower the number."""
        self.load = load
        self.shunned = False
        self.touch()
        self.unclaimed = min(self.unclaimed, max(0, load.num_running + load.num_waiting - len(self.placed)))

    def lost(self, call: Call) -> None:
        """The call was lost here while the worker seems well: it avoids the worker until that reports again."""
        call.avoided[self.worker_id] = self.load
        self.shunned = True

    def avoided_by(self, call: Call) -> bool:
        """It lost the call and has not reported since."""
        return call.avoided.get(self.worker_id) is self.load

    def claim(self, call: Call) -> None:
        """Enter a call that its gateway says is running here."""
        self.unclaimed = max(0, self.unclaimed - 1)
        call.kv_blocks = self.blocks_for(call, call.expected_output)
        self.place(call)

    def place(self, call: Call) -> None:
        """Enter a call whose expectations are set."""
        self.placed[call.key] = call
        call.placed_marks = self.marks(call)
        self.own_blocks += call.kv_blocks - depth(len(call.placed_marks))
        self.prefixes.enter(call, call.placed_marks)
        self.uncached_tokens += call.uncached_tokens
        insort(self.ends, call.expected_end)
        self.touch()

    def start(self, call: Call, expected_end: float) -> None:
        """The call's prefill is done."""
        self.uncached_tokens -= call.uncached_tokens
        call.uncached_tokens = 0
        del self.ends[bisect_left(self.ends, call.expected_end)]
        call.expected_end = expected_end
        insort(self.ends, expected_end)
        self.touch()

    def release(self, call: Call) -> None:
        """Take a call off the ledger."""
        del self.placed[call.key]
        self.own_blocks -= call.kv_blocks - depth(len(call.placed_marks))
        self.prefixes.leave(call, call.placed_marks)
        self.uncached_tokens -= call.uncached_tokens
        del self.ends[bisect_left(self.ends, call.expected_end)]
        self.touch()
