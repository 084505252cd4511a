"""The way from the host's KV pool into the device: one transfer after the other, beside the engine's steps."""


class Link:
    """`tokens_per_second`: of KV, by the clock; infinite where bringing takes no time."""

    def __init__(self, tokens_per_second: float) -> None:
        self._speed = tokens_per_second
        self._free_at = 0.0

    def ready_at(self, num_tokens: int, now: float) -> float:
        """Begin to bring so many tokens as soon as those before them are there: when they are."""
        self._free_at = max(self._free_at, now) + num_tokens / self._speed
        return self._free_at
