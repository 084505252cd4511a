"""The cluster of which limits are asked: equal engines."""

from dataclasses import dataclass

from services.worker.simulated.cost import Profile


@dataclass(frozen=True, slots=True)
class Capacity:
    """As many engines, each with its KV cache and the bounds of its batches."""

    profile: Profile
    num_engines: int
    kv_tokens: int
    """Per engine."""
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 2048

    def step_seconds(self, num_tokens: int) -> float:
        """Of a step, what it costs for its number of tokens alone: launch, matrix products, head, all-reduce."""
        return self.profile.step_seconds(0, num_tokens, 0, 0.0)

    @property
    def token_seconds(self) -> float:
        """The least share of such a cost that falls on one token, in the best of batches."""
        most = self.max_num_batched_tokens
        ends = [tokens for tokens, _ in self.profile.linear_ms if tokens < most]
        return min(self.step_seconds(tokens) / tokens for tokens in (*ends, most))

    def prefill_seconds(self, tokens: float, pairs: float) -> float:
        """The least time from the start of a prefill to the first token, alone on an engine.

        `pairs`: of a new token and one that it attends to.
        """
        linear = max(self.step_seconds(1), tokens * self.token_seconds)
        return linear + self.sequence_seconds(1) + self.attention_seconds(pairs)

    def decode_seconds(self, steps: float, context: float) -> float:
        """The least time of so many decode steps of one sequence; `context` is summed over them."""
        return steps * self.step_seconds(1) + self.sequence_seconds(steps) + self.context_seconds(context)

    def sequence_seconds(self, steps: float) -> float:
        """What a sequence adds to its steps."""
        return steps * self.profile.seq_ms / 1e3

    def context_seconds(self, context: float) -> float:
        """To read so many tokens of context in decode steps."""
        return context * self.profile.ctx_ms_per_token / 1e3

    def attention_seconds(self, pairs: float) -> float:
        """Of prefill."""
        return pairs * self.profile.attn_flops_per_pair / self.profile.attn_flops_per_second
