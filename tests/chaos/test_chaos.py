"""A minute of faults over every service of a real cluster: whatever is done to it, nothing is lost or said twice.

What faults befall whom follows from the seed; when a service is back, and so what the faults meet, does not.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.chaos import network
from tests.servers import binary

SEED = 25
SECONDS = 60
NUM_LIVE = 24
ROOT = Path(__file__).parents[2]


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_nothing_is_lost_and_nothing_said_twice_whatever_dies(tmp_path: Path) -> None:
    if why := network.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    for server in ("etcd", "redis-server"):
        binary(server)
    out = tmp_path / "chaos.json"
    what = ("--seed", SEED, "--seconds", SECONDS, "--programs", NUM_LIVE, "--run-in", 10, "--pause", 3)
    where = ("--logs", tmp_path / "logs", "--out", out)
    command = [sys.executable, "-m", "bench.chaos", *map(str, (*what, *where))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["faults"]
    assert set(result["invariants"].values()) == {"holds"}
