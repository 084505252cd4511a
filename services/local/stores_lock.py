"""Who may write etcd's and Redis's data: one node at a time, by an flock on a file beside them.

A batch system may start a control job anew while the node of the old one is only cut off from it, and writes on. The
lock belongs to those who write: the stores inherit the descriptor, so that it ends with the last of them, also where
what started them was killed first.
"""

import asyncio
import errno
import fcntl
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

log = logging.getLogger(__name__)

_TRY_AGAIN_SECONDS = 1.0
_GRACE_SECONDS = 60.0
_UNSUPPORTED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)
"""Of file systems without flock: Lustre that is mounted without `-o flock`, NFS without its lock service. That one
says ENOLCK also while it starts, for as long as it lets those who had locks claim them."""


@asynccontextmanager
async def held(path: Path, owner: str, grace_seconds: float = _GRACE_SECONDS) -> AsyncGenerator[int]:
    """Wait until nobody else has the lock, and have it for the context or as long as a process that inherits the
    descriptor that this yields. `owner`: what those who wait are told. Without flock there is a warning instead, at
    once or after `grace_seconds`."""
    now = asyncio.get_running_loop().time
    waits_for, give_up_at = None, now() + grace_seconds
    while (descriptor := _taken(path, may_pass=now() < give_up_at)) is None:
        if (holder := _holder(path)) and holder != waits_for:
            log.warning("wait for %s, which may still write etcd's and Redis's data (%s)", holder, path)
            waits_for = holder
        await asyncio.sleep(_TRY_AGAIN_SECONDS)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{owner}\n".encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _taken(path: Path, *, may_pass: bool) -> int | None:
    """A descriptor that has the lock; None: somebody else has it, or, if it `may_pass`, there are no locks now."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    taken = False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        taken = _is_at(descriptor, path)
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        if error.errno == errno.ENOLCK and may_pass:
            return None
        log.warning("%s cannot be locked: nothing but the batch system keeps two nodes apart: %s", path, error.strerror)
        taken = True
    finally:
        if not taken:
            os.close(descriptor)
    return descriptor if taken else None


def _holder(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except FileNotFoundError:
        return ""


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the file is still there: people remove it whose holder is gone for good and whose lock is not."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
