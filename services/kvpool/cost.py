"""What it costs to have KV again: computing it, or copying it from where it still lies.

Computing grows with the tokens and, through attention, with the context before each of them; copying with the bytes.
Both start from a profile and follow what is measured.
"""

from typing import Literal

Source = Literal["dram", "ssd", "peer"]

_WEIGHT = 0.1
"""Of a new measurement against what was believed."""


class Costs:
    """Seconds of an engine or of a link. The defaults are Llama-3-8B on an A100 (profiles.json, llama3-8b@a100: the
    linear layers at 8,192 tokens, and 4 * layers * heads * head size / 180 TFLOP/s for each pair of tokens)."""

    def __init__(
        self,
        *,
        token_seconds: float = 6.7e-5,
        pair_seconds: float = 2.913e-9,
        dram_bytes_per_second: float = 20e9,
        ssd_bytes_per_second: float = 2e9,
        peer_bytes_per_second: float = 1e9,
    ) -> None:
        self._token_seconds = token_seconds
        self._pair_seconds = pair_seconds
        self._scale = 1.0
        self._speeds: dict[Source, float] = {
            "dram": dram_bytes_per_second,
            "ssd": ssd_bytes_per_second,
            "peer": peer_bytes_per_second,
        }

    def recompute_seconds(self, first_token: int, num_tokens: int) -> float:
        """To compute tokens whose prefix of `first_token` tokens is there."""
        pairs = num_tokens * (first_token + num_tokens / 2)
        return self._scale * (self._token_seconds * num_tokens + self._pair_seconds * pairs)

    def reload_seconds(self, num_bytes: int, source: Source) -> float:
        """To copy bytes to where engines read them."""
        return num_bytes / self._speeds[source]

    def learn_prefill(self, first_token: int, num_tokens: int, seconds: float) -> None:
        """What an engine really took: both terms scale alike."""
        expected = self.recompute_seconds(first_token, num_tokens)
        if expected > 0 and seconds > 0:
            self._scale *= (seconds / expected) ** _WEIGHT

    def learn_reload(self, source: Source, num_bytes: int, seconds: float) -> None:
        """What a copy really took. Small ones say more of latency than of speed; leave them out."""
        if num_bytes > 0 and seconds > 0:
            self._speeds[source] *= (num_bytes / seconds / self._speeds[source]) ** _WEIGHT
