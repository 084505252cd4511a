"""Pauses between attempts that double for as long as nothing comes of them."""

import asyncio


class Backoff:
    """Of one thing that is tried again and again, so that a peer which fails at once is not asked in a loop."""

    def __init__(self, first_seconds: float, longest_seconds: float) -> None:
        self._first_seconds = first_seconds
        self._longest_seconds = longest_seconds
        self._next_seconds = first_seconds

    def reset(self) -> None:
        """An attempt was worth it: the next pause is the first."""
        self._next_seconds = self._first_seconds

    def next_seconds(self) -> float:
        """How long to pause now; the next time for twice as long, up to the longest."""
        seconds = self._next_seconds
        self._next_seconds = min(2 * seconds, self._longest_seconds)
        return seconds

    async def pause(self) -> None:
        """For so long."""
        await asyncio.sleep(self.next_seconds())
