"""Starts the stack as a process of its own and learns through a pipe when it is ready and where it listens."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from services.common import config

READY_SECONDS = 600.0
"""A large model takes minutes to load."""


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


def spawn(flags: Sequence[str], overrides: Mapping[str, object], output: Path, pid_file: Path | None = None) -> Stack:
    """Run `python -m services run *flags` with settings replaced (`{"worker.count": 2}`) until it is ready.

    Raises NotReady; whatever goes wrong here, the process is stopped. Its output goes to the file `output`, its pid at
    once to `pid_file`.
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
    try:
        if pid_file is not None:
            pid_file.write_text(str(process.pid), encoding="ascii")
        addresses = _addresses(reader, output)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    return Stack(process, addresses["OPENAI_BASE_URL"], addresses["LEGATO_ADDRESS"])


def _addresses(reader: int, output: Path) -> dict[str, str]:
    """What the stack writes when it is ready; it closes the pipe then, or by dying."""
    with os.fdopen(reader, encoding="utf-8") as pipe:
        if not select.select([pipe], [], [], READY_SECONDS)[0]:
            raise NotReady(f"Legato is not ready after {READY_SECONDS:.0f} s; the end of {output}:\n{_tail(output)}")
        addresses = dict(line.split("=", 1) for line in pipe.read().split())
    if not addresses:
        raise NotReady(f"Legato did not start; the end of {output}:\n{_tail(output)}")
    return addresses


def _tail(path: Path, num_lines: int = 30) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])
