"""Noticing a reader that takes nothing of its output."""

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager


class Stall:
    """Calls `hang_up` when one write lasts from one `check` to the next."""

    def __init__(self, hang_up: Callable[[], object]) -> None:
        self._hang_up = hang_up
        self._num_begun = 0
        self._num_done = 0
        self._stuck_at = 0

    @contextmanager
    def writing(self) -> Generator[None]:
        """Around each write, which waits while the reader is behind."""
        self._num_begun += 1
        yield
        self._num_done += 1

    def check(self) -> None:
        waiting = self._num_begun > self._num_done
        if waiting and self._stuck_at == self._num_begun:
            self._hang_up()
        self._stuck_at = self._num_begun if waiting else 0


@contextmanager
def every(seconds: float, action: Callable[[], None]) -> Generator[None]:
    """Do `action` again and again while inside."""
    loop = asyncio.get_running_loop()

    def act() -> None:
        nonlocal timer
        timer = loop.call_later(seconds, act)
        action()

    timer = loop.call_later(seconds, act)
    try:
        yield
    finally:
        timer.cancel()
