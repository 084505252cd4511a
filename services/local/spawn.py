"""Starts the stack as a process of its own and learns through a pipe when it is ready and where it listens."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.common import config


class NotReady(Exception):
    """The stack ended before it was ready; the message holds the end of its output."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack that is ready for calls."""

    process: subprocess.Popen[bytes]
    base_url: str
    """Of the OpenAI API, ending in /v1."""
    address: str
    """Of the gRPC API, host:port."""

    @property
    def text(self) -> str:
        """For people, and for a shell's `eval`."""
        return f"OPENAI_BASE_URL={self.base_url}\nLEGATO_ADDRESS={self.address}"

    def stop(self, timeout_seconds: float = 60.0) -> int:
        """Stop it gracefully, by force after the timeout. Its exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


def spawn(flags: Sequence[str], overrides: Mapping[str, object], output: Path) -> Stack:
    """Run `python -m services run *flags` with settings replaced (`{"worker.count": 2}`) until it is ready.

    Raises NotReady. Its output goes to the file `output`.
    """
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "services", "run", *flags, "--ready-fd", str(writer)]
    with output.open("wb") as sink:
        process = subprocess.Popen(
            command,
            env=config.environment(overrides),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            pass_fds=(writer,),
            start_new_session=True,
        )
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        addresses = dict(line.split("=", 1) for line in pipe.read().split())
    if not addresses:
        process.wait()
        raise NotReady(f"Legato did not start; the end of {output}:\n{_tail(output)}")
    return Stack(process, addresses["OPENAI_BASE_URL"], addresses["LEGATO_ADDRESS"])


def _tail(path: Path, num_lines: int = 30) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])
