"""The cluster that the other tests run on is one: nodes with names of their own, and jobs that come back."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.servers.slurm import Slurm, slurm, until

pytestmark = pytest.mark.slurm

JOB = """#!/bin/bash
#SBATCH --partition=gpu --array=0-1 --exclusive --requeue --open-mode=append
echo $SLURMD_NODENAME ${SLURM_RESTART_COUNT:-0}
sleep infinity
"""


@pytest.fixture
def cluster() -> Iterator[Slurm]:
    with slurm(control=["control"], gpu=["gpu0", "gpu1"]) as made:
        yield made


@pytest.mark.parametrize("which", ["a cluster", "one after it"])
def test_nodes_are_hosts_that_find_each_other(cluster: Slurm, which: str) -> None:
    names = cluster.run("srun", "--partition=gpu", "--nodes=2", "hostname").split()
    found = cluster.run("srun", "--partition=gpu", "--nodes=1", "getent", "hosts", "control", "gpu0", "gpu1", "login")
    assert sorted(names) == ["gpu0", "gpu1"], which
    assert len({line.split()[0] for line in found.splitlines()}) == 4


def test_a_job_whose_node_is_lost_runs_again(cluster: Slurm) -> None:
    script = cluster.folder / "job"
    script.write_text(JOB, encoding="ascii")
    cluster.run("sbatch", f"--output={cluster.folder}/%a.out", str(script))

    def said() -> list[list[str]]:
        """Of each element, without what Slurm itself adds."""
        texts = [path.read_text(encoding="ascii") for path in cluster.folder.glob("*.out")]
        return sorted([line for line in text.splitlines() if line.startswith("gpu")] for text in texts)

    until(lambda: said() == [["gpu0 0"], ["gpu1 0"]], "an element on each node")
    cluster.set_state("gpu1", "down")
    cluster.set_state("gpu1", "resume")
    until(lambda: said() == [["gpu0 0"], ["gpu1 0", "gpu1 1"]], "it runs again")


def test_nothing_is_left_of_it() -> None:
    with slurm(gpu=["gpu0"]) as cluster:
        cluster.run("sbatch", "--partition=gpu", "--output=/dev/null", "--wrap", "setsid sleep 86399")
        until(lambda: _commands("sleep", "86399"), "the job runs")
    assert not _commands("sleep", "86399")
    assert not cluster.folder.exists()


def _commands(*words: str) -> list[str]:
    """Processes of this machine that run this command."""
    wanted = "\0".join((*words, "")).encode()
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):  # it ended meanwhile
            found += [path.parent.name] * (path.read_bytes() == wanted)
    return found
