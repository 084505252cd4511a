"""Outlook: what a worker has ahead of it: what is placed there, and its line, the calls that wait for it.

It lives as long as the worker takes calls. The prediction that placement minimises, in seconds from now:

    completion = wait for a slot and for KV + prefill backlog + bringing KV from pools
               + (prompt - cached - brought) / prefill speed + output * step

A call waits for those that are placed and for those in the line that go before it in the queue's order.
"""

from bisect import bisect_left
from collections.abc import Callable
from math import ceil, inf
from typing import NamedTuple

from services.scheduler.limits import Limits
from services.scheduler.pool_events import Role
from services.scheduler.pools import BlockSeconds, Pools
from services.scheduler.records import Call, Worker

_USUAL_PROMPT = 2048
"""Tokens to compute of the call by which workers are compared when no call is at hand."""


class Kind(NamedTuple):
    """What a worker can be used for."""

    prefills: bool
    """No more than that."""
    namespace_id: str
    max_model_len: int


class Prediction(NamedTuple):
    """Seconds of a call at a worker."""

    ahead: float
    """Until its prefill can begin: slot, KV, prefill backlog."""
    prefill: float
    decode: float
    delay: float
    """What its prefill adds to the calls that run there, summed: it slows each while it lasts."""


Overflow = Callable[[str, str, int, float], float]
"""Blocks that a worker's residents would have too many, if so many blocks of a program were there."""


class Outlook:
    """`line` is sorted by `call.order`; changed by `hold` and `drop` alone."""

    __slots__ = (
        "_block_seconds",
        "_held_blocks",
        "_held_tokens",
        "_limits",
        "_lookahead",
        "_overflow",
        "_pools",
        "_pools_version",
        "block_size",
        "counted",
        "empty_since",
        "freed",
        "kind",
        "line",
        "max_model_len",
        "max_num_seqs",
        "namespace_id",
        "num_blocks",
        "number",
        "pool_id",
        "role",
        "standing",
        "step_seconds",
        "token_seconds",
        "worker",
        "worker_id",
    )

    def __init__(self, worker: Worker, number: int, limits: Limits, pools: Pools, overflow: Overflow) -> None:
        """`number`: unique among those it is compared with; the smaller one is preferred."""
        description = worker.description
        self.worker = worker
        self.worker_id = description.worker_id
        self.number = number
        self.max_num_seqs = description.max_num_seqs
        self.max_model_len = description.max_model_len
        self.num_blocks = description.num_blocks
        self.block_size = description.block_size
        self.role = description.role
        self.pool_id = description.pool_id
        self.namespace_id = description.kv_namespace_id
        self.kind = Kind(self.role is Role.PREFILL, self.namespace_id, self.max_model_len)
        self.line: list[tuple[tuple[float, ...], Call]] = []
        self.freed: dict[Outlook, None] = {}
        """Its roster's."""
        self.standing: tuple[int, float, int] = (0, 0.0, number)
        """Its key in the roster's order of workers; belongs to that."""
        self.counted = 0
        """Of `claimed`, what the roster has in its sum."""
        self.empty_since = inf
        """It had nothing placed when dispatch last looked for work for it, nor since then."""
        self._limits = limits
        self._lookahead = limits.lookahead_calls
        self.step_seconds = self.token_seconds = 0.0
        """Of a decode step and to prefill a token, as measured or assumed."""
        self._pools_version = -1
        self._pools = pools
        self._overflow = overflow
        self.reported()
        self._block_seconds: BlockSeconds | None = None
        self._held_blocks = self._held_tokens = 0

    @property
    def open(self) -> bool:
        """May it take one more call, KV aside?"""
        worker = self.worker
        load = worker.load
        if load.draining or load.num_waiting > self._lookahead:
            return False
        return len(worker.placed) + worker.unclaimed < self.max_num_seqs + self._lookahead

    @property
    def claimed(self) -> int:
        """Calls that it has or that wait for it (and, on a worker that joined busy, those not announced yet)."""
        return self.worker.occupied + len(self.line)

    @property
    def load(self) -> float:
        """Those calls over the seats of its batch."""
        return self.claimed / self.max_num_seqs

    @property
    def blocks_claimed(self) -> int:
        """KV blocks that those need."""
        return self.worker.kv_blocks + self._held_blocks

    @property
    def block_seconds(self) -> BlockSeconds | None:
        """What blocks cost here; None: no pool can bring any."""
        if self._pools_version != self._pools.version:
            self._pools_version = self._pools.version
            compute_seconds = self.block_size * self.token_seconds
            block_bytes = self.worker.description.kv_block_bytes
            self._block_seconds = self._pools.block_seconds(self.pool_id, block_bytes, compute_seconds)
        return self._block_seconds

    def reported(self) -> None:
        """The worker's counters are new ones."""
        load, limits = self.worker.load, self._limits
        self.step_seconds = load.step_seconds or limits.assumed_step_seconds
        self.token_seconds = 1.0 / (load.prefill_tokens_per_second or limits.assumed_prefill_tokens_per_second)
        self._pools_version = -1

    def needs(self, call: Call, output_tokens: float) -> int:
        """KV blocks that the call will hold here beside what it shares with calls placed here."""
        return self.worker.blocks_for(call, output_tokens) - self.worker.shared_blocks(call)

    def prediction(self, call: Call, supplied_blocks: int, output_tokens: float, now: float) -> Prediction:
        """For a call that need not compute so many blocks and generates so many tokens here."""
        worker = self.worker
        occupied = len(worker.placed) + worker.unclaimed
        claimed, blocks, tokens = occupied, worker.kv_blocks, worker.uncached_tokens
        if self.line:
            claimed, blocks, tokens = self._claims(call)
        ahead = tokens * self.token_seconds
        over = claimed - self.max_num_seqs + 1
        missing = blocks + self.needs(call, output_tokens) - self.num_blocks
        if over > 0 or missing > 0 or not self.open:
            wait = self._wait_seconds(over, now)
            if missing > 0 and claimed:
                ends = min(claimed, ceil(missing * claimed / max(1, blocks)))
                wait = max(wait, self._wait_seconds(ends, now))
            ahead += wait
        prefill = max(0, call.prompt_tokens - supplied_blocks * self.block_size) * self.token_seconds
        # A fuller batch steps more slowly, so the emptier of two equals is preferred.
        decode = output_tokens * self.step_seconds * (1.0 + claimed / self.max_num_seqs)
        return Prediction(ahead, prefill, decode, prefill * min(occupied, self.max_num_seqs))

    def overflow_seconds(self, call: Call, output_tokens: float, now: float) -> float:
        """To compute anew what the call would drive out of the KV here."""
        blocks = self.worker.blocks_for(call, output_tokens)
        overflow = self._overflow(self.worker_id, call.program.program_id, blocks, now)
        return overflow * self.block_size * self.token_seconds

    def fits(self, call: Call, blocks: int) -> bool:
        """Is there room, lookahead included, beside all that goes before it? An empty worker takes any call."""
        worker = self.worker
        if not self.open:
            return False
        claimed, claimed_blocks = worker.occupied, worker.kv_blocks
        if self.line:
            claimed, claimed_blocks, _ = self._claims(call)
            if claimed >= self.max_num_seqs + self._lookahead:
                return False
        return claimed_blocks + blocks <= self.num_blocks or not worker.occupied

    def idle(self) -> bool:
        """Could the engine run one more right now?"""
        return self.worker.occupied < self.max_num_seqs and self.open

    def takes(self, blocks: int) -> bool:
        """Would a call from elsewhere fit an idle slot? What is free is kept for those who wait for it."""
        worker = self.worker
        if self.line and worker.occupied:
            return False
        return self.idle() and (worker.kv_blocks + blocks <= self.num_blocks or not worker.occupied)

    def hold(self, call: Call) -> None:
        """The call waits for this worker, as its `hold` says."""
        assert call.hold is not None
        self.line.insert(bisect_left(self.line, (call.order,)), (call.order, call))
        self._held_blocks += call.hold.kv_blocks
        self._held_tokens += call.hold.uncached_tokens
        self.worker.touch()

    def drop(self, call: Call) -> None:
        """The call waits for this worker no more."""
        assert call.hold is not None
        del self.line[bisect_left(self.line, (call.order,))]
        self._held_blocks -= call.hold.kv_blocks
        self._held_tokens -= call.hold.uncached_tokens
        call.hold = None
        self.worker.touch()
        if self.worker.occupied < self.max_num_seqs:  # what was kept for it is free
            self.freed[self] = None

    def check(self) -> None:
        """Raise AssertionError where the line contradicts what its calls say."""
        holds = [call.hold for _, call in self.line]
        assert [entry[0] for entry in self.line] == sorted(call.order for _, call in self.line), (
            "a line is out of order"
        )
        assert all(hold is not None and hold.outlook is self for hold in holds), "a call is in the line of another"
        assert self._held_blocks == sum(hold.kv_blocks for hold in holds if hold), "blocks of a line do not add up"
        assert self._held_tokens == sum(hold.uncached_tokens for hold in holds if hold), "tokens of one do not"

    def usual_seconds(self) -> tuple[int, float]:
        """Has it no room, and the prediction for a call of usual size; by means, so that it holds at any time."""
        claimed, blocks = self.claimed, self.blocks_claimed
        seconds = (self.worker.uncached_tokens + self._held_tokens + _USUAL_PROMPT) * self.token_seconds
        seconds += self._limits.assumed_output_tokens * self.step_seconds * (1.0 + claimed / self.max_num_seqs)
        over = claimed - self.max_num_seqs + 1
        missing = blocks + _USUAL_PROMPT // self.block_size - self.num_blocks
        if missing > 0 and claimed:
            over = max(over, ceil(missing * claimed / max(1, blocks)))
        full = over > 0 or not self.open
        return full, seconds + max(over, 0) * self._turn_seconds()

    def _claims(self, call: Call) -> tuple[int, int, int]:
        """Calls, blocks and tokens to prefill that go before the call."""
        worker, line = self.worker, self.line
        position = bisect_left(line, (call.order,))
        blocks, tokens = self._held_blocks, self._held_tokens
        if position < len(line):
            for i in range(position, len(line)):
                hold = line[i][1].hold
                assert hold is not None
                blocks -= hold.kv_blocks
                tokens -= hold.uncached_tokens
        return worker.occupied + position, worker.kv_blocks + blocks, worker.uncached_tokens + tokens

    def _turn_seconds(self) -> float:
        """From one end of a call to the next, where nothing better is known."""
        if self.role is Role.PREFILL:
            backlog = self.worker.uncached_tokens * self.token_seconds
            return max(self.step_seconds, backlog / max(1, self.worker.occupied))
        return self._limits.assumed_output_tokens * self.step_seconds / self.max_num_seqs

    def _wait_seconds(self, num_ends: int, now: float) -> float:
        """Until so many of the placed calls have ended, by their expected ends; overdue ones end at the mean rate."""
        num_ends = max(num_ends, 0 if self.open else 1)
        if not num_ends:
            return 0.0
        ends = self.worker.ends
        counted = min(num_ends, len(ends))
        gap = self._turn_seconds()
        until = ends[counted - 1] - now if counted else 0.0
        return (until if until > 0 else counted * gap) + (num_ends - counted) * gap
