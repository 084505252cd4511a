"""Outlook: a worker as one dispatch pass sees it: what is placed, what the pass assigned, what held calls claim.

The prediction that placement minimises, in seconds from now:

    completion = wait for a slot and for KV + prefill backlog + (prompt - cached) / prefill speed + output * step
"""

from math import ceil

from services.scheduler.limits import Limits
from services.scheduler.records import Call, Worker


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
        "block_size",
        "blocks_claimed",
        "blocks_kept",
        "blocks_taken",
        "claimed",
        "max_model_len",
        "max_num_seqs",
        "num_blocks",
        "open",
        "taken",
        "worker",
        "worker_id",
    )

    def __init__(self, worker: Worker, now: float, limits: Limits) -> None:
        description, load = worker.description, worker.load
        self._now = now
        self._limits = limits
        self.worker = worker
        self.worker_id = description.worker_id
        self.max_num_seqs = description.max_num_seqs
        self.max_model_len = description.max_model_len
        self.num_blocks = description.num_blocks
        self.block_size = description.block_size
        self.open = worker.open(limits.lookahead_calls)
        self.taken = self.claimed = worker.occupied
        self.blocks_taken = self.blocks_claimed = worker.kv_blocks
        self.blocks_kept = 0
        """Of what is free, kept for held calls that need more than that."""
        self._step_seconds = load.step_seconds or limits.assumed_step_seconds
        self._prefill_seconds = 1.0 / (load.prefill_tokens_per_second or limits.assumed_prefill_tokens_per_second)
        self._prefill_backlog = worker.uncached_tokens * self._prefill_seconds
        self._ahead_seconds = -1.0
        """Wait for a slot and prefill backlog; negative: to be computed."""
        self._output_seconds = 0.0
        """For each output token; a fuller batch steps more slowly, so the emptier of two equal workers is preferred."""

    def completion_seconds(self, call: Call, cached_blocks: int) -> float:
        """The prediction for the call."""
        if self._ahead_seconds < 0:
            self._ahead_seconds = self._wait_seconds(self.claimed - self.max_num_seqs + 1) + self._prefill_backlog
            self._output_seconds = self._step_seconds * (1.0 + self.claimed / self.max_num_seqs)
        seconds = (
            self._ahead_seconds
            + (call.prompt_tokens - cached_blocks * self.block_size) * self._prefill_seconds
            + call.expected_output * self._output_seconds
        )
        need = call.prompt_tokens + call.expected_output
        if need > (self.num_blocks - self.blocks_claimed) * self.block_size and self.claimed:
            return seconds + self._kv_wait_seconds(self.worker.blocks_for(call))
        return seconds

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

    def assign(self, call: Call, blocks: int, cached_blocks: int) -> None:
        """The call goes here now."""
        self.taken += 1
        self.blocks_taken += blocks
        self._claim(call, blocks, cached_blocks)

    def hold(self, call: Call, blocks: int, cached_blocks: int) -> None:
        """The call waits for this worker."""
        if self.open and self.taken < self.max_num_seqs:
            self.blocks_kept += blocks
        self._claim(call, blocks, cached_blocks)

    def _claim(self, call: Call, blocks: int, cached_blocks: int) -> None:
        self.claimed += 1
        self.blocks_claimed += blocks
        self._prefill_backlog += (call.prompt_tokens - cached_blocks * self.block_size) * self._prefill_seconds
        self._ahead_seconds = -1.0

    def _wait_seconds(self, num_ends: int) -> float:
        """Until so many of the placed calls have ended, by their expected ends; overdue ones end at the mean rate."""
        num_ends = max(num_ends, 0 if self.open else 1)
        if not num_ends:
            return 0.0
        ends = self.worker.ends
        counted = min(num_ends, len(ends))
        gap = self._limits.assumed_output_tokens * self._step_seconds / self.max_num_seqs
        until = ends[counted - 1] - self._now if counted else 0.0
        return (until if until > 0 else counted * gap) + (num_ends - counted) * gap

    def _kv_wait_seconds(self, blocks: int) -> float:
        """How much longer than for a slot it takes until the blocks are free."""
        missing = self.blocks_claimed + blocks - self.num_blocks
        for_blocks = min(self.claimed, ceil(missing * self.claimed / max(1, self.blocks_claimed)))
        for_slot = self.claimed - self.max_num_seqs + 1
        return max(0.0, self._wait_seconds(for_blocks) - self._wait_seconds(for_slot))
