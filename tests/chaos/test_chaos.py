"""A minute of faults over every service of a real cluster: whatever is done to it, nothing is lost or said twice.

What faults befall whom follows from the seed; when a service is back, and so what the faults meet, does not.
"""

import os
from pathlib import Path

import pytest

from bench.chaos import network
from bench.chaos.run import Asked, run
from tests.servers import binary

SEED = 25
SECONDS = 60.0
NUM_LIVE = 24


@pytest.mark.chaos
@pytest.mark.timeout(900)
async def test_nothing_is_lost_and_nothing_said_twice_whatever_dies(tmp_path: Path) -> None:
    if why := network.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    for server in ("etcd", "redis-server"):
        binary(server)
    asked = Asked(SEED, SECONDS, NUM_LIVE, run_in_seconds=10.0, log_dir=tmp_path, pause_seconds=3.0)
    said: list[str] = []
    report = await run(asked, said.append)
    assert report.faults
    assert not report.broken, "\n".join((*said, *report.lines()))
