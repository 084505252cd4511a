"""One call in the simulated engine: how far it is, what it holds, what it will be told."""

from dataclasses import dataclass

from services.worker.simulated.events import End, Receipt, Submitted
from services.worker.simulated.table import BlockTable


@dataclass(slots=True, eq=False)
class Call:
    """Mutable state of a live call. Waiting calls hold no blocks."""

    submitted: Submitted
    key: int
    total: int
    """Tokens of prompt and whole output."""
    order: tuple[int, int]
    """Smaller runs first: (priority, arrival)."""
    submitted_at: float
    num_tokens: int
    """Prompt and output so far."""
    table: BlockTable
    num_computed: int = 0
    """Tokens whose KV is there; kept up to date while prefilling only: a decoding call lacks just its last token's."""
    next_output: int = 1
    """Output tokens at the next report."""
    alarm: int = 0
    """The `num_tokens` at which a decoding call needs attention."""
    cached_tokens: int = 0
    started_at: float | None = None
    first_token_at: float | None = None
    num_preemptions: int = 0

    @property
    def generated(self) -> int:
        return self.num_tokens - self.submitted.prompt_tokens

    def brought_tokens(self, block_size: int) -> int:
        """Tokens whose KV can be brought: whole blocks, and at least one token is left to compute."""
        return min(self.submitted.brought_tokens, (self.num_tokens - 1) // block_size * block_size)

    def set_alarm(self) -> None:
        """After a report or a new block: see to it at the next report, at the end, or when its blocks are full."""
        alarm = self.submitted.prompt_tokens + self.next_output
        # Written out, for this runs once for each token that is reported by itself.
        if alarm > self.total:
            alarm = self.total
        if alarm > self.table.room:
            alarm = self.table.room + 1
        self.alarm = alarm

    def receipt(self, end: End, now: float) -> Receipt:
        """Its account, were it to end now."""
        started = now if self.started_at is None else self.started_at
        first = now if self.first_token_at is None else self.first_token_at
        spans = (started - self.submitted_at, first - started, now - first)
        # A late timer lets a step begin, by its own time, before a call that joined it had come.
        queue, prefill, decode = (max(seconds, 0.0) for seconds in spans)
        return Receipt(end, self.cached_tokens, queue, prefill, decode, self.num_preemptions)
