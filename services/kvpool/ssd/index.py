"""The disk tier's index: a log of what lies where, the only thing that a restart reads.

Blocks are put down after their bytes are durable. What cannot be read of the log, its torn end or all of it, is cut
off: those blocks are computed again. All methods block, and no two run at the same time.
"""

import contextlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from services.kvpool.events import DiskEntry
from services.kvpool.ssd import record
from services.kvpool.ssd.calls import Calls

_log = logging.getLogger(__name__)

_COMPACT_BYTES = 1024 * 1024
"""A log below this is not worth the rewriting."""
_CHUNK_BYTES = 4 * 1024 * 1024


class Index:
    """The log, open for appending."""

    def __init__(self, directory: Path, calls: Calls) -> None:
        """Raises OSError when the log cannot be read or made."""
        self._directory = directory
        self._path = directory / "index"
        self._calls = calls
        (directory / "index.new").unlink(missing_ok=True)
        data = self._path.read_bytes() if self._path.exists() else b""
        log = record.read(data)
        if log.end < len(data):
            _log.warning(
                "%s: %d bytes of %d are no records and are dropped", self._path, len(data) - log.end, len(data)
            )
        self.entries = [record.entry(data, start) for start, _ in log.live.values()]
        """The blocks that the tier held when it was opened."""
        self._live = log.live
        self._live_bytes = sum(length for _, length in log.live.values())
        self._end = log.end
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if not log.known:
            self._replace([record.HEADER])
        elif log.end < len(data):
            os.ftruncate(self._file, log.end)
            os.fsync(self._file)

    @property
    def num_bytes(self) -> int:
        """Length of the log."""
        return self._end

    def commit(self, forgotten: Sequence[int], entries: Sequence[DiskEntry]) -> None:
        """Strike offsets, then put blocks down; durable on return. Raises OSError: then nothing of it is in the log
        (ENOSPC), or the log is not to be written any more (any other)."""
        strike = record.forget(forgotten)
        puts = [record.put(entry) for entry in entries]
        start = self._end
        try:
            self._calls.append(self._file, b"".join((strike, *puts)), start)
            self._calls.fdatasync(self._file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, start)
            raise
        for offset in forgotten:
            self._drop(offset)
        self._end += len(strike)
        for entry, data in zip(entries, puts, strict=True):
            self._drop(entry.offset)
            self._live[entry.offset] = (self._end, len(data))
            self._live_bytes += len(data)
            self._end += len(data)

    def compact(self) -> bool:
        """Write the log anew if more than half of it is about blocks that are gone. Raises OSError; the log is as it
        was then."""
        if self._end < max(_COMPACT_BYTES, 2 * self._live_bytes):
            return False
        old, size = self._path.read_bytes(), self._end
        chunks, chunk, live = [record.HEADER], bytearray(), dict[int, tuple[int, int]]()
        end = len(record.HEADER)
        for offset, (start, length) in sorted(self._live.items(), key=lambda item: item[1]):
            chunk += old[start : start + length]
            live[offset] = (end, length)
            end += length
            if len(chunk) >= _CHUNK_BYTES:
                chunks.append(bytes(chunk))
                chunk.clear()
        self._replace([*chunks, bytes(chunk)])
        self._live = live
        _log.info("%s: rewritten, %d bytes from %d", self._path, self._end, size)
        return True

    def close(self) -> None:
        os.close(self._file)

    def _drop(self, offset: int) -> None:
        self._live_bytes -= self._live.pop(offset, (0, 0))[1]

    def _replace(self, chunks: Sequence[bytes]) -> None:
        """Let the log be these bytes: after a crash it is the old one or the new one, whole."""
        path = self._directory / "index.new"
        new = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        end = 0
        try:
            for chunk in chunks:
                self._calls.append(new, chunk, end)
                end += len(chunk)
            self._calls.fdatasync(new)
            path.rename(self._path)
        except OSError:
            os.close(new)
            path.unlink(missing_ok=True)
            raise
        os.close(self._file)
        self._file, self._end = new, end
        with contextlib.suppress(OSError):  # after a power cut it may then be the old one
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
