"""What `legato slurm` tells Slurm and understands of it, without Slurm."""

import asyncio
import subprocess
from collections import deque
from pathlib import Path

import pytest

from legato.client import Client
from legato.cluster import Worker
from legato.slurm import commands, logs, queue, scale, site
from legato.slurm.drain import drain
from legato.slurm.queue import Job
from legato.slurm.site import Site, SiteError
from legato.slurm.submit import submit
from legato.v1 import scheduler_pb2
from services.common import rpc
from services.common.errors import Failure, Reason
from tests.sdk.fake_gateway import Context, FakeGateway, serving


def a_site(**values: str) -> Site:
    text = Path("slurm/site.env").read_text(encoding="utf-8")
    changes = "".join(f"{key}={value}\n" for key, value in values.items())
    return Site(Path("/s/site.env"), site.parse(text + changes, {"HOME": "/home/ada"}), Path("/shared/legato"))


def a_job(id: str, state: str = "RUNNING", nodes: str = "", plain_id: str = "1") -> Job:
    return Job(id, plain_id, "legato-workers-both", state, nodes, nodes, "", "")


def a_worker(worker_id: str, num_placed: int) -> Worker:
    return Worker(
        worker_id=worker_id,
        model="m",
        engine="simulated",
        engine_version="",
        role="both",
        address="",
        pool_id="",
        max_model_len=0,
        max_num_seqs=0,
        num_running=0,
        num_waiting=0,
        num_placed=num_placed,
        kv_usage=0.0,
        num_cached_blocks=0,
        num_preemptions=0,
        prompt_tokens=0,
        cached_tokens=0,
        generated_tokens=0,
        draining=False,
    )


def test_a_cluster_is_a_control_job_and_an_array_for_each_role():
    kinds = commands.kinds(a_site(WORKERS="3", PREFILL_WORKERS="1", DECODE_WORKERS="2"), whole=False)
    assert {kind: [word for word in words if "--array" in word] for kind, words in kinds.items()} == {
        "control": [],
        "workers-both": ["--array=0-2"],
        "workers-prefill": ["--array=0-0"],
        "workers-decode": ["--array=0-1"],
    }


def test_a_worker_job_of_an_engine_over_several_nodes_has_them_all():
    site = a_site(WORKERS="3", GPUS_PER_NODE="4", TENSOR_PARALLEL="4", PIPELINE_PARALLEL="2", ENGINE_NODES="2")
    assert "--nodes=2" in commands.kinds(site, whole=False)["workers-both"]
    assert "--nodes=6" in commands.kinds(site, whole=True)["whole"]


def test_every_job_hears_of_its_end_is_requeued_and_gets_its_environment():
    for words in commands.kinds(a_site(NOTICE_SECONDS="600"), whole=False).values():
        assert "--signal=B:USR1@600" in words
        assert {"--requeue", "--export=ALL"} <= set(words)
        assert words[-1].startswith("/home/ada/legato/slurm/")


def test_the_heterogeneous_job_has_a_component_for_each_kind_of_node():
    words = commands.kinds(a_site(WORKERS="0", PREFILL_WORKERS="1", DECODE_WORKERS="2"), whole=True)["whole"]
    text = " ".join(words)
    assert [part.count("--gpus-per-node=4") for part in text.split(" : ")] == [0, 1, 1]
    assert [part.split("--nodes=")[1].split()[0] for part in text.split(" : ")] == ["1", "1", "2"]
    assert words[-1] == "/home/ada/legato/slurm/legato.sbatch"


def test_nothing_is_asked_for_that_the_site_leaves_open():
    words = commands.kinds(a_site(WORKER_PARTITION="", GPUS_PER_NODE="0"), whole=False)["workers-both"]
    assert not [word for word in words if "--partition" in word or "--gpus" in word or "--account" in word]
    words = commands.kinds(a_site(ACCOUNT="m1", WORKER_OPTIONS='"--qos=x -C gpu"'), whole=False)["workers-both"]
    assert {"--account=m1", "--qos=x", "-C"} <= set(words)


@pytest.mark.parametrize(("whole", "kind"), [(False, "workers-decode"), (True, "whole")])
def test_a_script_submits_with_further_options_and_forgets_the_job_that_runs_it(whole: bool, kind: str, tmp_path: Path):
    settled = a_site(PREFILL_WORKERS="1", DECODE_WORKERS="2", CLUSTER_NAME="my-cluster")
    words = commands.kinds(settled, whole)[kind]
    told = tmp_path / "told"
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" >{told}\nenv | grep -E "^(SLURM|LEGATO)" | sort\n')
    sbatch.chmod(0o700)
    script = tmp_path / "script.sh"
    script.write_text(commands.script(settled, kind, words), encoding="utf-8")
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "7", "SLURM_CONF": "/etc/slurm.conf"}
    done = subprocess.run(
        ["bash", str(script), "--dependency=afterany:7"], env=environment, capture_output=True, check=True, text=True
    )
    said = told.read_text(encoding="utf-8").splitlines()
    assert said[0] == "--parsable"
    assert [word for word in said[1:] if word != "--dependency=afterany:7"] == words
    first = said.index(":") if ":" in said else len(said) - 1
    assert said.index("--dependency=afterany:7") == first - 1
    variables = done.stdout.splitlines()
    assert "SLURM_CONF=/etc/slurm.conf" in variables
    assert "LEGATO_SITE=/s/site.env" in variables
    assert not [line for line in variables if line.startswith("SLURM_JOB")]
    assert ("LEGATO_WORKER__ROLE=decode" in variables) is not whole


def test_squeue_is_understood():
    control = "12|12|legato-control|RUNNING|nid[1-2]|nid1|1:00|None\n"
    text = f"{control}13_4|18|legato-workers-both|PENDING||n/a|2:00|Resources\nnoise\n"
    assert queue.parse(text) == [
        Job("12", "12", "legato-control", "RUNNING", "nid[1-2]", "nid1", "1:00", "None"),
        Job("13_4", "18", "legato-workers-both", "PENDING", "", "n/a", "2:00", "Resources"),
    ]


def test_an_error_of_sbatch_names_the_key():
    said = "sbatch: error: invalid partition specified: gpuu"
    assert "CONTROL_PARTITION or WORKER_PARTITION" in queue.explained(said)
    assert queue.explained("something else") == "something else"


def test_without_slurm_it_says_where_to_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(queue.SlurmError, match="squeue is not on PATH: run this where jobs are submitted"):
        queue.jobs(["legato-control"])


def test_new_elements_take_the_lowest_free_numbers():
    jobs = [a_job("5_0"), a_job("5_2"), a_job("9_3")]
    assert scale.free_elements(jobs, 3) == "1,4,5"
    assert scale.free_elements([], 2) == "0,1"


def test_those_with_the_least_work_go_first():
    jobs = [a_job("5_0", nodes="n0"), a_job("5_1", nodes="n1"), a_job("5_2", "PENDING"), a_job("5_3", nodes="n3")]
    work = scale.work_by_node(
        [a_worker("n0-7-ab", 3), a_worker("n0-8-ab", 1), a_worker("n1.site.org-7-cd", 9), a_worker("n10-7-ef", 5)],
        ["n0", "n1", "n3"],
    )
    assert work == {"n0": 4, "n1": 9, "n3": 0}
    assert [job.id for job in scale.to_leave(jobs, work, 3)] == ["5_2", "5_3", "5_0"]


def test_of_those_with_equal_work_the_oldest_goes_first():
    jobs = [a_job("9_0", plain_id="9"), a_job("5_1", plain_id="7"), a_job("5_2", plain_id="5")]
    assert [job.id for job in scale.to_leave(jobs, {}, 2)] == ["5_2", "5_1"]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """What Slurm's commands were told, a line each. squeue says what the file `queue` beside it says."""
    for name in ("squeue", "sbatch", "scancel"):
        says = f"cat {tmp_path}/queue" if name == "squeue" else f'echo "{name} $*" >>{tmp_path}/told; echo 77'
        (tmp_path / name).write_text(f"#!/bin/bash\n{says}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path / "told"


def a_cluster_here(told: Path, queue_says: str) -> Site:
    (told.parent / "queue").write_text(queue_says, encoding="utf-8")
    values = {**a_site(ENGINE="simulated", LEGATO_HOME=str(Path.cwd())).values}
    return Site(Path("/s/site.env"), values, told.parent / "legato")


def test_what_is_lost_is_submitted_again_beside_what_lives(told: Path):
    settled = a_cluster_here(told, "13_0|13|legato-workers-both|RUNNING|gpu0|gpu0|1:00|None\n")
    assert submit(settled, whole=False) == {"control": "77"}
    assert "--job-name=legato-control" in told.read_text(encoding="utf-8")
    with pytest.raises(queue.SlurmError, match="has jobs already: 13_0"):
        submit(settled, whole=True)
    (settled.job_dir / "draining").touch()
    with pytest.raises(queue.SlurmError, match="has jobs already: 13_0"):
        submit(settled, whole=False)


def test_nobody_is_sent_to_a_cluster_that_is_over(told: Path):
    settled = a_cluster_here(told, "")
    settled.job_dir.mkdir()
    settled.connection_file.touch()
    assert submit(settled, whole=False).keys() == {"control", "workers-both"}
    assert not settled.connection_file.exists()


def test_of_a_worker_that_leaves_the_one_that_waits_for_its_end_goes_too(told: Path):
    first = "13_0|13|legato-workers-both|RUNNING|gpu0|gpu0|1:00|None\n"
    second = "13_1|14|legato-workers-both|RUNNING|gpu1|gpu1|9:00|None\n"
    settled = a_cluster_here(told, f"{first}{second}20_0|20|legato-workers-both|PENDING||n/a|12:00|Dependency\n")
    settled.job_dir.mkdir()
    assert scale.scale(settled, "both", 1, []) == ([], ["13_0"])
    assert told.read_text(encoding="utf-8").splitlines() == [
        "scancel --batch --signal=USR1 13_0",
        "scancel 20_0",
    ]
    assert (settled.job_dir / "leaving" / "13").exists()


def test_new_workers_take_no_number_of_one_that_leaves(told: Path):
    settled = a_cluster_here(told, "13_0|13|legato-workers-both|RUNNING|gpu0|gpu0|1:00|None\n")
    (settled.job_dir / "leaving").mkdir(parents=True)
    (settled.job_dir / "leaving" / "13").touch()
    (settled.job_dir / "jobs").mkdir()
    script = settled.job_dir / "jobs" / "workers-both.sh"
    script.write_text('#!/bin/bash\nexec sbatch "$@"\n', encoding="utf-8")
    script.chmod(0o700)
    assert scale.scale(settled, "both", 2, []) == (["77"], [])
    assert told.read_text(encoding="utf-8") == "sbatch --array=1,2\n"


class Restarting(FakeGateway):
    """Cannot answer at first, then knows of a program, which then ends."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = deque((None, 1, 0))

    async def ListPrograms(
        self, request: scheduler_pb2.ListProgramsRequest, context: Context
    ) -> scheduler_pb2.ListProgramsResponse:
        if (count := self.counts.popleft()) is None:
            await rpc.abort(context, Failure(Reason.NO_SCHEDULER, "it starts"))
        return scheduler_pb2.ListProgramsResponse(programs=[scheduler_pb2.ProgramStatus()] * count)


def a_client(address: str) -> Client:
    return Client(address, max_retries=0, reconnect_seconds=0.0)


CONTROL_RUNS = "12|12|legato-control|RUNNING|nid1|nid1|1:00|None\n"


def test_a_gateway_that_starts_again_is_asked_again_before_the_end(told: Path):
    settled, said = a_cluster_here(told, CONTROL_RUNS), list[str]()
    settled.job_dir.mkdir()

    async def drained() -> list[str]:
        async with serving(Restarting()) as address:
            return await drain(settled, a_client(address), 60.0, said.append)

    assert asyncio.run(drained()) == ["12"]
    assert said == ["no gateway answers: it starts", "1 programs go on"]
    assert told.read_text(encoding="utf-8").splitlines() == ["scancel --batch --signal=USR1 12", "scancel 12"]


def test_nobody_waits_for_gateways_that_stay_away(told: Path):
    settled, said = a_cluster_here(told, CONTROL_RUNS), list[str]()
    settled.job_dir.mkdir()
    client = a_client(str(settled.connection_file))
    assert asyncio.run(drain(settled, client, 60.0, said.append, silence_seconds=0.0)) == ["12"]
    assert said[0].startswith("no gateway has answered for 0 s, so nobody knows of programs: the connection file")


def test_what_was_never_submitted_is_not_drained_or_scaled(told: Path):
    settled = a_cluster_here(told, CONTROL_RUNS)
    with pytest.raises(SiteError, match=f"SHARED_DIR, CLUSTER_NAME: no directory {settled.job_dir}"):
        asyncio.run(drain(settled, a_client("127.0.0.1:9"), 60.0, print))
    with pytest.raises(SiteError, match=r"no cluster was submitted with /s/site\.env"):
        scale.scale(settled, "both", 1, [])
    assert not told.exists()


def test_logs_are_told_behind_their_node_and_followed(tmp_path: Path):
    settled = Site(Path("/s"), a_site().values, tmp_path)
    folder = tmp_path / "logs" / "gpu0-7"
    folder.mkdir(parents=True)
    (folder / "worker.log").write_text("one\ntwo\nhalf", encoding="utf-8")
    assert list(logs.lines(settled, "worker", follow=False)) == ["gpu0-7: one", "gpu0-7: two"]
    following = logs.lines(settled, "worker", follow=True)
    assert [next(following), next(following)] == ["gpu0-7: one", "gpu0-7: two"]
    with (folder / "worker.log").open("a", encoding="utf-8") as log:
        log.write(" more\n")
    assert next(following) == "gpu0-7: half more"
    with pytest.raises(SiteError, match=r"no log of gatway.*worker"):
        list(logs.lines(settled, "gatway", follow=False))
