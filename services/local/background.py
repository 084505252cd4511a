"""`up` and `down`: the stack in the background, its pid in run/legato.pid and its output in run/legato.log."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from services.common.process import exited
from services.local.spawn import NotReady, spawn

RUN_DIR = Path("run")
PID_FILE = RUN_DIR / "legato.pid"
LOG_FILE = RUN_DIR / "legato.log"
STOP_SECONDS = 180.0
"""Gateway, workers and scheduler drain one after the other."""


def up(flags: Sequence[str]) -> int:
    """Start the stack, return when it is ready for calls. The exit code."""
    if (pid := _running()) is not None:
        return _say(f"Legato already runs as pid {pid}; `make down` stops it", 1)
    RUN_DIR.mkdir(exist_ok=True)
    try:
        stack = spawn(flags, {}, LOG_FILE, PID_FILE)
    except NotReady as error:
        PID_FILE.unlink()
        return _say(str(error), 1)
    return _say(f"Legato is ready (pid {stack.process.pid}, output in {LOG_FILE}).\n{stack.text}", 0)


def down() -> int:
    """Stop the stack. The exit code."""
    if (pid := _running()) is None:
        PID_FILE.unlink(missing_ok=True)
        return _say("Legato is not running", 0)
    os.kill(pid, signal.SIGTERM)
    try:
        asyncio.run(asyncio.wait_for(exited(pid), STOP_SECONDS))
    except TimeoutError:
        return _say(f"Legato (pid {pid}) still runs after {STOP_SECONDS:.0f} s", 1)
    PID_FILE.unlink(missing_ok=True)
    return _say("Legato has stopped", 0)


def _running() -> int | None:
    """Pid of the stack that was started last, if that is what still runs under it."""
    try:
        pid = int(PID_FILE.read_text(encoding="ascii"))
        command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError):
        return None
    return pid if b"services" in command else None


def _say(text: str, code: int) -> int:
    print(text, file=sys.stderr if code else sys.stdout)
    return code
