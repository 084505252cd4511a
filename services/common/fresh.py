"""What files hold, read again when they change."""

import logging
import os
import ssl
import threading
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeAlias, TypeVar

from services.common.config import SettingsError

_log = logging.getLogger(__name__)

T = TypeVar("T")

UNUSABLE: Final = (OSError, ValueError, SettingsError)
"""What `load` raises for files that cannot be used; an SSLError is an OSError."""

_Stamp: TypeAlias = tuple[int, int, int] | None


class Fresh(Generic[T]):
    """Looks at the files whenever it is asked, and loads them once for each change; again if they could not be read for
    the moment. May be asked by any thread: one that asks while another one loads is told what was."""

    def __init__(self, files: Sequence[str], load: Callable[[], T]) -> None:
        """Raises what `load` raises."""
        self._files, self._load = files, load
        self._loading = threading.Lock()
        self._warned: tuple[_Stamp, ...] | None = None
        self._stamps: tuple[_Stamp, ...] | None = self._look()
        self._made = load()

    def now(self) -> T:
        """As the files are; where they cannot be used, as they were. The same object until they change."""
        if self._look() != self._stamps and self._loading.acquire(blocking=False):
            try:
                self._renew()
            finally:
                self._loading.release()
        return self._made

    def _renew(self) -> None:
        stamps = self._look()  # before they are read: what is written meanwhile is a change again
        try:
            self._made = self._load()
            self._stamps = stamps
        except UNUSABLE as error:
            if stamps != self._warned:
                _log.warning("%s: what was read before still holds: %s", ", ".join(self._files), error)
            self._warned = stamps
            self._stamps = None if _passing(error) else stamps

    def _look(self) -> tuple[_Stamp, ...]:
        return tuple(_stamp(file) for file in self._files)


def _passing(error: Exception) -> bool:
    """Whether the same files may be read another time: too many are open, or the file system is away."""
    return isinstance(error, OSError) and not isinstance(error, (ssl.SSLError, FileNotFoundError))


def _stamp(file: str) -> _Stamp:
    """Which file it is, when it was written and how much; None: there is none that could be read."""
    try:
        found = os.stat(file)
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size
