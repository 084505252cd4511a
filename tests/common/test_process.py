"""`server.run`: signals and exit codes of a real process."""

import json
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import IO

import pytest


@contextmanager
def process(how: str) -> Generator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "tests.common.process", how]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def hear(started: subprocess.Popen[str], word: str) -> None:
    """Read what it says up to `word`."""
    stdout: IO[str] | None = started.stdout
    assert stdout is not None
    assert word in (line.strip() for line in stdout), f"it never said {word}"


def test_a_signal_drains_and_ends_well():
    with process("drains") as started:
        hear(started, "running")
        started.send_signal(signal.SIGTERM)
        hear(started, "drained")
        _, logs = started.communicate(timeout=10)
    assert started.returncode == 0
    messages = [json.loads(line)["message"] for line in logs.splitlines()]
    assert messages == ["probe: running", "probe: stopping", "probe: stopped"]


def test_a_second_signal_ends_the_drain():
    with process("drains for ever") as started:
        hear(started, "running")
        started.send_signal(signal.SIGINT)
        hear(started, "draining")
        started.send_signal(signal.SIGINT)
        assert started.wait(timeout=10) == 1


def test_a_signal_ends_a_start_that_does_not_end():
    with process("starts for ever") as started:
        hear(started, "starting")
        started.send_signal(signal.SIGTERM)
        assert started.wait(timeout=10) == 0


@pytest.mark.parametrize(("how", "why"), [("cannot start", "no engine"), ("breaks", "a task broke")])
def test_a_service_that_fails_says_why_and_exits_1(how: str, why: str):
    with process(how) as started:
        _, logs = started.communicate(timeout=10)
    assert started.returncode == 1
    last = json.loads(logs.splitlines()[-1])
    assert last["level"] == "critical"
    assert why in last["exception"]
