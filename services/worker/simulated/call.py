"""One call in the simulated engine: how far it is, what it holds, what it will be told."""

import sys
from dataclasses import dataclass

from services.worker.simulated.events import End, Receipt, Submitted
from services.worker.simulated.table import BlockTable

NEVER = sys.maxsize
"""More tokens than there are."""


@dataclass(slots=True, eq=False)
class Call:
    """Mutable state of a live call. Waiting calls hold no blocks."""

    submitted: Submitted
    key: int
    total: int
    """Tokens of prompt and whole output."""
    priority: int
    number: int
    """Calls are numbered as they come."""
    submitted_at: float
    num_tokens: int
    """Prompt and output so far; of a decoding call, when it began to decode (see Decoding)."""
    brought: int
    """Tokens whose KV the host has."""
    table: BlockTable
    num_computed: int = 0
    """Tokens whose KV is there; kept up to date while prefilling only: a decoding call lacks just its last token's."""
    ready_at: float = 0.0
    """When what is brought is there."""
    joined: int = 0
    alarm: int = 0
    """Of Decoding, in its steps."""
    next_output: int = 1
    """Output tokens at the next report."""
    quantum_end: int = NEVER
    """The `num_tokens` at which it loses priority."""
    seasoned_at: int = NEVER
    """The `num_tokens` from which on it may be preempted for another."""
    seasoned: bool = False
    cached_tokens: int = 0
    started_at: float | None = None
    first_token_at: float | None = None
    num_preemptions: int = 0

    @property
    def order(self) -> tuple[int, int]:
        """Smaller runs first."""
        return self.priority, self.number

    @property
    def generated(self) -> int:
        return self.num_tokens - self.submitted.prompt_tokens

    def brought_tokens(self, block_size: int) -> int:
        """Tokens whose KV can be brought: whole blocks, and at least one token is left to compute."""
        return min(self.brought, (self.num_tokens - 1) // block_size * block_size)

    def next_alarm(self) -> int:
        """The number of tokens at which to see to it next: a report is due, something changes, or it ends."""
        alarm = self.submitted.prompt_tokens + self.next_output
        # Written out, for this runs once for each token that is reported by itself.
        if alarm > self.total:
            alarm = self.total
        if alarm > self.quantum_end:
            alarm = self.quantum_end
        if alarm > self.seasoned_at:
            alarm = self.seasoned_at
        return alarm

    def receipt(self, end: End, now: float) -> Receipt:
        """Its account, were it to end now."""
        started = now if self.started_at is None else self.started_at
        first = now if self.first_token_at is None else self.first_token_at
        spans = (started - self.submitted_at, first - started, now - first)
        # A late timer lets a step begin, by its own time, before a call that joined it had come.
        queue, prefill, decode = (max(seconds, 0.0) for seconds in spans)
        return Receipt(end, self.cached_tokens, queue, prefill, decode, self.num_preemptions)
