"""Fifty programs on jobs that are cancelled, lose nodes, come and go, and reach their walltime: no call fails.

The scripts, the commands and Slurm are the real ones; engines are simulated, so that answers show every token that was
lost or came twice.
"""

import json
from collections.abc import Iterator

import pytest

from tests.servers.slurm import Slurm, slurm, until
from tests.slurm.fleet import NAMES, Fleet, Running, is_private, programs

CONTROL_NODES = ["control", "standby", "spare"]
NODES = [f"gpu{number}" for number in range(5)]
NOTICE = {"NOTICE_SECONDS": 80, "MARGIN_SECONDS": 60}
SECRETS = ("api_keys", "etcd_password", "redis_password", "salt")
WARNED = "now+105seconds"
"""An end so near that Slurm says so when it looks next, every 30 seconds."""

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


@pytest.fixture
def cluster() -> Iterator[Slurm]:
    with slurm(control=CONTROL_NODES, gpu=NODES) as made:
        yield made


@pytest.fixture
def fleet(cluster: Slurm) -> Iterator[Fleet]:
    made = Fleet(cluster)
    yield made
    print(made.jobs(), cluster.states(), made.logs())  # noqa: T201  # shown with a failure


def test_programs_outlive_what_happens_to_their_jobs(fleet: Fleet) -> None:
    fleet.write_site(CONTROL_NODES=2, **NOTICE)
    fleet.slurm("submit")
    with programs(fleet) as running:
        running.go_on()
        until(lambda: fleet.workers() == {"prefill": 2, "decode": 2}, "all workers")
        its_status_is_true(fleet)
        a_worker_job_is_cancelled(fleet, running)
        nodes_are_lost(fleet, running)
        jobs_reach_their_walltime(fleet, running)
        running.complete()
    fleet.slurm("drain", "--patience", "1")  # newcomers' programs live: nobody said that they are over
    until(lambda: not fleet.jobs(), "all jobs are over")


def test_one_job_holds_it_all_and_leaves_nothing(fleet: Fleet) -> None:
    fleet.write_site(CONTROL_NODES=2, TLS="no")
    fleet.slurm("submit", "--whole")
    with programs(fleet) as running:
        running.go_on()
        assert len({job.partition("+")[0] for job in fleet.jobs()}) == 1
        assert fleet.workers() == {"prefill": 2, "decode": 2}
        until(lambda: len(fleet.connection()["addresses"]) == 2, "a gateway on each control node")
        running.complete()
    fleet.cluster.run("scancel", *fleet.jobs())
    until(lambda: not fleet.jobs(), "the job is over")
    for node in fleet.cluster.nodes:
        found = ("find", "/dev/shm", "/tmp", "-maxdepth", "1", "-name", "legato*", "-not", "-name")
        assert not fleet.cluster.run(*found, fleet.cluster.folder.name, on=node)
        assert "services." not in fleet.cluster.run("ps", "axww", on=node)


def its_status_is_true(fleet: Fleet) -> None:
    status = json.loads(fleet.slurm("status", "--json"))
    assert {job["id"]: job["state"] for job in status["jobs"]} == fleet.jobs()
    assert status["connection"] == fleet.connection()
    assert sorted(worker["role"] for worker in status["workers"]) == ["decode"] * 2 + ["prefill"] * 2
    assert "ready for calls" in fleet.slurm("logs", "jobs")
    secrets = fleet.job_dir / "secrets"
    assert all(is_private(path) for path in (fleet.job_dir, fleet.connection_file, *secrets.rglob("*")))
    keys = {(secrets / name).read_text(encoding="ascii").strip() for name in SECRETS}
    said = "".join(fleet.cluster.run("ps", "axww", on=node) for node in CONTROL_NODES) + fleet.logs(None)
    assert not [key for key in keys if key in said]
    first = fleet.batch_node_of(*fleet.control_jobs())
    for store in ("etcd", "redis-server"):  # what writes the data has the lock on it
        assert "stores.lock" in fleet.cluster.run("bash", "-c", f"ls -l /proc/$(pgrep -x {store})/fd", on=first)


def a_worker_job_is_cancelled(fleet: Fleet, running: Running) -> None:
    element = fleet.elements("decode")[0]
    fleet.cluster.run("scancel", element)
    running.go_on()
    until(lambda: element not in fleet.jobs(), "the job is over")
    until(lambda: fleet.workers() == {"prefill": 2, "decode": 1}, "one worker less")


def nodes_are_lost(fleet: Fleet, running: Running) -> None:
    """A worker's, and the control node with etcd, Redis and the batch script; while another worker job takes the place
    of the one that was cancelled."""
    fleet.slurm("scale", "2", "--role", "decode")
    until(lambda: len(fleet.connection()["addresses"]) == 2, "a gateway on each control node")
    [control], element = fleet.control_jobs(), fleet.elements("prefill")[0]
    first, lost = fleet.batch_node_of(control), fleet.node_of(element)
    fleet.cluster.nodes[first].power_off()
    for node in (first, lost):
        fleet.cluster.set_state(node, "down")  # Slurm itself would say so after SlurmdTimeout
    until(lambda: control not in fleet.jobs() and fleet.control_jobs(), "another control job follows")
    assert f"job {control} has lost its first node, {first}, and ends" in fleet.slurm("logs", "jobs")
    running.go_on()
    until(lambda: fleet.workers() == {"prefill": 2, "decode": 2}, "as many workers as at first")
    assert fleet.node_of(element) not in ("", lost)
    fleet.cluster.set_state(lost, "resume")
    running.go_on()


def jobs_reach_their_walltime(fleet: Fleet, running: Running) -> None:
    """The control job and one of the workers'; another worker job is told to go meanwhile."""
    fleet.slurm("scale", "1", "--role", "decode")
    [control], element = fleet.control_jobs(), fleet.elements("prefill")[0]
    for job in (control, element):
        fleet.cluster.run("scontrol", "update", f"jobid={job}", f"EndTime={WARNED}")
    until(lambda: fleet.newcomer() == "503 draining", "no new programs")
    before = running.made()
    until(lambda: control not in fleet.jobs(), "the control job is over")
    assert running.made().total() > before.total(), "programs that live go on"
    running.go_on()
    assert fleet.control_jobs() != [control]
    assert fleet.newcomer() == "200"
    known = {program["program_id"]: program for program in fleet.programs()}
    assert all(known[name]["num_finished"] >= before[name] for name in NAMES), "the following job knows the programs"
    until(lambda: fleet.workers() == {"prefill": 2, "decode": 1}, "workers that follow, and one less")
    assert element not in fleet.jobs()
