"""Outlook: a worker as one dispatch pass sees it: what is placed, what the pass assigned, what held calls claim.

The prediction that placement minimises, in seconds from now:

    completion = wait for a slot and for KV + prefill backlog + bringing KV from pools
               + (prompt - cached - brought) / prefill speed + output * step
"""

from math import ceil

from services.scheduler.limits import Limits
from services.scheduler.pool_events import Role
from services.scheduler.pools import Pools
from services.scheduler.records import Call, Worker
from services.scheduler.supply import Supply


class Outlook:
    """`claimed` counts every call that will run here: placed, assigned, held (and, on a worker that
    joined busy, not announced yet). `taken` leaves out the held ones."""

    __slots__ = (
        "_ahead_seconds",
        "_limits",
        "_now",
        "_output_seconds",
        "_prefill_backlog",
        "_prefill_seconds",
        "_step_seconds",
        "_turn_seconds",
        "block_seconds",
        "block_size",
        "blocks_claimed",
        "blocks_kept",
        "blocks_taken",
        "claimed",
        "max_model_len",
        "max_num_seqs",
        "namespace_id",
        "num_blocks",
        "open",
        "pool_id",
        "role",
        "taken",
        "worker",
        "worker_id",
    )

    def __init__(self, worker: Worker, now: float, limits: Limits, pools: Pools) -> None:
        description, load = worker.description, worker.load
        self._now = now
        self._limits = limits
        self.worker = worker
        self.worker_id = description.worker_id
        self.max_num_seqs = description.max_num_seqs
        self.max_model_len = description.max_model_len
        self.num_blocks = description.num_blocks
        self.block_size = description.block_size
        self.role = description.role
        self.pool_id = description.pool_id
        self.namespace_id = description.kv_namespace_id
        self.open = worker.open(limits.lookahead_calls)
        self.taken = self.claimed = worker.occupied
        self.blocks_taken = self.blocks_claimed = worker.kv_blocks
        self.blocks_kept = 0
        """Of what is free, kept for held calls that need more than that."""
        self._step_seconds = load.step_seconds or limits.assumed_step_seconds
        self._prefill_seconds = 1.0 / (load.prefill_tokens_per_second or limits.assumed_prefill_tokens_per_second)
        self._prefill_backlog = worker.uncached_tokens * self._prefill_seconds
        compute_seconds = self.block_size * self._prefill_seconds
        self.block_seconds = pools.block_seconds(self.pool_id, description.kv_block_bytes, compute_seconds)
        """What blocks cost here; None: no pool can bring any."""
        if self.role is Role.PREFILL:
            self._turn_seconds = max(self._step_seconds, self._prefill_backlog / max(1, worker.occupied))
        else:
            self._turn_seconds = limits.assumed_output_tokens * self._step_seconds / self.max_num_seqs
        """From one end of a call to the next, where nothing better is known."""
        self._ahead_seconds = -1.0
        """Wait for a slot and prefill backlog; negative: to be computed."""
        self._output_seconds = 0.0
        """For each output token; a fuller batch steps more slowly, so the emptier of two equal workers is preferred."""

    def prefill_seconds(self, call: Call, blocks: int) -> float:
        """To prefill what follows the call's first `blocks` blocks."""
        return max(0, call.prompt_tokens - blocks * self.block_size) * self._prefill_seconds

    def decode_seconds(self, output_tokens: float) -> float:
        """To generate so many tokens."""
        self._refresh()
        return output_tokens * self._output_seconds

    def ahead_seconds(self, call: Call, output_tokens: float) -> float:
        """Until the call's own prefill can begin: slot, KV, prefill backlog."""
        self._refresh()
        need = call.prompt_tokens + output_tokens
        if need > (self.num_blocks - self.blocks_claimed) * self.block_size and self.claimed:
            return self._ahead_seconds + self._kv_wait_seconds(self.worker.blocks_for(call, output_tokens))
        return self._ahead_seconds

    def completion_seconds(self, call: Call, supply: Supply, output_tokens: float) -> float:
        """The prediction for the call, or for its prefill and so many tokens."""
        ahead = self.ahead_seconds(call, output_tokens)
        prefill = (call.prompt_tokens - supply.blocks * self.block_size) * self._prefill_seconds
        return ahead + supply.seconds + prefill + output_tokens * self._output_seconds

    def delay_seconds(self, call: Call, blocks: int) -> float:
        """What prefilling behind those blocks adds to the calls that run here, summed: it slows each while it lasts."""
        return self.prefill_seconds(call, blocks) * min(self.taken, self.max_num_seqs)

    def fits(self, blocks: int) -> bool:
        """Is there room, lookahead included, beside all that is claimed? An empty worker takes any call."""
        if not self.open or self.claimed >= self.max_num_seqs + self._limits.lookahead_calls:
            return False
        return self.blocks_claimed + blocks <= self.num_blocks or not self.taken

    def idle(self) -> bool:
        """Could the engine run one more right now?"""
        return self.open and self.taken < self.max_num_seqs

    def fits_idle(self, blocks: int) -> bool:
        """Does it fit an idle slot, whatever calls that are held for a slot claim?"""
        return self.idle() and (self.blocks_taken + self.blocks_kept + blocks <= self.num_blocks or not self.taken)

    def assign(self, call: Call, blocks: int, supplied_blocks: int) -> None:
        """The call goes here now."""
        self.taken += 1
        self.blocks_taken += blocks
        self._claim(call, blocks, supplied_blocks)

    def hold(self, call: Call, blocks: int, supplied_blocks: int) -> None:
        """The call waits for this worker."""
        if self.open and self.taken < self.max_num_seqs:
            self.blocks_kept += blocks
        self._claim(call, blocks, supplied_blocks)

    def _claim(self, call: Call, blocks: int, supplied_blocks: int) -> None:
        self.claimed += 1
        self.blocks_claimed += blocks
        self._prefill_backlog += (call.prompt_tokens - supplied_blocks * self.block_size) * self._prefill_seconds
        self._ahead_seconds = -1.0

    def _refresh(self) -> None:
        if self._ahead_seconds < 0:
            self._ahead_seconds = self._wait_seconds(self.claimed - self.max_num_seqs + 1) + self._prefill_backlog
            self._output_seconds = self._step_seconds * (1.0 + self.claimed / self.max_num_seqs)

    def _wait_seconds(self, num_ends: int) -> float:
        """Until so many of the placed calls have ended, by their expected ends; overdue ones end at the mean rate."""
        num_ends = max(num_ends, 0 if self.open else 1)
        if not num_ends:
            return 0.0
        ends = self.worker.ends
        counted = min(num_ends, len(ends))
        gap = self._turn_seconds
        until = ends[counted - 1] - self._now if counted else 0.0
        return (until if until > 0 else counted * gap) + (num_ends - counted) * gap

    def _kv_wait_seconds(self, blocks: int) -> float:
        """How much longer than for a slot it takes until the blocks are free."""
        missing = self.blocks_claimed + blocks - self.num_blocks
        for_blocks = min(self.claimed, ceil(missing * self.claimed / max(1, self.blocks_claimed)))
        for_slot = self.claimed - self.max_num_seqs + 1
        return max(0.0, self._wait_seconds(for_blocks) - self._wait_seconds(for_slot))
