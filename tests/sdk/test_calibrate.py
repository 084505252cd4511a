"""`legato calibrate` hands over where there is a checkout, and says so where there is none."""

import os
import subprocess
import sys
from pathlib import Path


def legato(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "LEGATO_ADDRESS": "127.0.0.1:1", "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, "-m", "legato", "calibrate", *arguments]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_without_a_checkout_it_says_what_is_missing(tmp_path: Path) -> None:
    outcome = legato(tmp_path)
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert "checkout" in outcome.stderr


def test_in_a_checkout_it_asks_the_gateway_for_workers() -> None:
    outcome = legato(Path.cwd())
    assert outcome.returncode == 1
    assert "calibrate: " in outcome.stderr
    assert "127.0.0.1:1" in outcome.stderr
