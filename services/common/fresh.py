"""What files hold, read again when they change."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar

from services.common.config import SettingsError

_log = logging.getLogger(__name__)

T = TypeVar("T")

UNUSABLE: Final = (OSError, ValueError, SettingsError)
"""What `load` raises for files that cannot be used; an SSLError is an OSError."""


class Fresh(Generic[T]):
    """Looks at the files whenever it is asked, and loads them once for each change. May be asked by any thread: one
    that asks while another one loads is told what was."""

    def __init__(self, files: Sequence[str], load: Callable[[], T]) -> None:
        """Raises what `load` raises."""
        self._files, self._load = files, load
        self._stamps = self._look()
        self._made = load()

    def now(self) -> T:
        """As the files are; where they cannot be used, as they were. The same object until they change."""
        stamps = self._look()
        if stamps != self._stamps:
            self._stamps = stamps  # looked at before they are read: what is written meanwhile is a change again
            try:
                self._made = self._load()
            except UNUSABLE as error:
                _log.warning("%s: what was read before still holds: %s", ", ".join(self._files), error)
        return self._made

    def _look(self) -> tuple[tuple[int, int] | None, ...]:
        return tuple(_stamp(file) for file in self._files)


def _stamp(file: str) -> tuple[int, int] | None:
    """Which file it is and when it was written; None: there is none that could be read."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
