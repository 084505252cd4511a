"""`python -m services.local.redis_start DIR CONF`: Redis, on data that a full disk may have left with holes.

A Redis that has no room takes back what it could write of a command, by cutting the file; but a file that it began in a
rewrite it does not open for appending, so its next write leaves NULs where the cut was (Redis 7 and 8, aof.c). From
then on it takes the file for shorter than it is, and its next such cut takes good commands along. It would not start on
such a file again. What is between the last good command and the first one behind NULs can be cut out.
"""

import mmap
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

_CHECK = "redis-check-aof"
_ANALYZED = re.compile(r"AOF analyzed: filename=(\S+), size=\d+, ok_up_to=(\d+)")
_NEXT = re.compile(rb"\0(?:(?=\*\d+\r\n\$\d+\r\n)|\Z)")
"""The last NUL before a command, or before the end."""


def mend(directory: Path) -> int:
    """Cut the holes out of the append-only files of the Redis whose data is in `directory`. Returns how many bytes
    those were. What else is wrong there is left for Redis to judge."""
    manifest = directory / "appendonlydir" / "appendonly.aof.manifest"
    num_cut = 0
    while manifest.exists() and (found := _unreadable(manifest)) is not None:
        file, offset = found
        length = _hole(file, offset)
        if not length:
            break
        _cut(file, offset, length)
        num_cut += length
    return num_cut


def _unreadable(manifest: Path) -> tuple[Path, int] | None:
    """The first file that Redis's own check does not like, and up to where it does."""
    command = (_CHECK, str(manifest))
    checked = subprocess.run(command, capture_output=True, text=True, check=False, errors="replace")
    analyzed = _ANALYZED.findall(checked.stdout)
    if not checked.returncode or not analyzed:
        return None
    name, offset = analyzed[-1]
    return manifest.parent / name, int(offset)


def _hole(file: Path, offset: int) -> int:
    """How long the hole there is, with what is left of a command before its NULs; 0: there is none."""
    with file.open("rb") as data, mmap.mmap(data.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        found = _NEXT.search(mapped, offset)
        return found.end() - offset if found else 0


def _cut(file: Path, offset: int, length: int) -> None:
    """Take `length` bytes out of a file, all or nothing."""
    whole = file.with_name(f"temp-{file.name}")  # Redis removes what is called so
    with file.open("rb") as data, whole.open("wb") as kept:
        _copy(data.fileno(), kept.fileno(), 0, offset)
        _copy(data.fileno(), kept.fileno(), offset + length, os.fstat(data.fileno()).st_size - offset - length)
        os.fsync(kept.fileno())
    whole.replace(file)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _copy(source: int, target: int, offset: int, length: int) -> None:
    end = offset + length
    while offset < end:
        offset += os.sendfile(target, source, offset, end - offset)


def main() -> None:
    """Mend, then be Redis."""
    directory, configuration = sys.argv[1:]
    if shutil.which(_CHECK) is None:
        _say(f"{_CHECK} is not on PATH: a file with holes stays as it is")
    elif num_cut := mend(Path(directory)):
        _say(f"{num_cut} bytes of holes cut out of the append-only file")
    os.execvp("redis-server", ("redis-server", configuration))


def _say(what: str) -> None:
    """Where Redis writes its own log."""
    sys.stdout.write(f"redis: {what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
