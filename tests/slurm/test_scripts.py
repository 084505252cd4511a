"""The parts of slurm/common.sh that need no Slurm."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Shell = Callable[..., str]


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """Runs bash after slurm/common.sh, with site values of one's own."""

    def run(script: str, **values: str) -> str:
        site = tmp_path / "site.env"
        own = {"SHARED_DIR": str(tmp_path), "LEGATO_HOME": str(Path.cwd()), "TLS": "no", **values}
        shipped = Path("slurm/site.env").read_text(encoding="utf-8")
        site.write_text(shipped + "".join(f'{key}="{value}"\n' for key, value in own.items()), encoding="utf-8")
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "LEGATO_SITE": str(site),
            "SLURM_JOB_ID": "7",
            "SLURMD_NODENAME": "nid1",
        }
        command = ["bash", "-c", f"source slurm/common.sh; {script}"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout

    return run


def test_keys_are_made_once_and_are_the_owners_alone(shell: Shell, tmp_path: Path):
    shell("make_keys")
    secrets = tmp_path / "legato" / "secrets"
    made = {path.name: path.read_text(encoding="utf-8") for path in secrets.iterdir() if path.name != ".lock"}
    assert made.keys() == {"api_keys", "etcd_password", "redis_password", "salt"}
    assert len(set(made.values())) == 4
    assert {len(key) for key in made.values()} == {64}
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in (secrets, *secrets.iterdir()))
    shell("make_keys")
    assert {name: (secrets / name).read_text(encoding="utf-8") for name in made} == made


def test_in_an_image_what_jobs_need_is_bound(shell: Shell, tmp_path: Path):
    apptainer = tmp_path / "apptainer"
    apptainer.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    apptainer.chmod(0o700)
    options = {"APPTAINER_IMAGE": "/images/legato.sif", "APPTAINER_OPTIONS": "--bind /extra", "KV_DISK_DIR": "/ssd"}
    said = shell("in_environment python -m services node", **options).splitlines()
    assert said[:2] == ["exec", "--nv"]
    assert said[-5:] == ["/images/legato.sif", "python", "-m", "services", "node"]
    bound = [said[at + 1] for at, word in enumerate(said) if word == "--bind"]
    assert {path for paths in bound for path in paths.split(",")} >= {str(tmp_path), str(Path.cwd()), "/ssd", "/extra"}


def test_what_the_site_sets_up_is_there(shell: Shell, tmp_path: Path):
    (tmp_path / "setup.sh").write_text("export NCCL_SOCKET_IFNAME=hsn\n", encoding="utf-8")
    assert shell("env", SETUP=str(tmp_path / "setup.sh")).count("NCCL_SOCKET_IFNAME=hsn") == 1


def test_what_the_site_sets_up_may_name_variables_that_are_not_set(shell: Shell, tmp_path: Path):
    (tmp_path / "setup.sh").write_text('export LOADED="yes$NOT_SET"\n', encoding="utf-8")
    assert shell("echo $LOADED $-", SETUP=str(tmp_path / "setup.sh")).startswith("yes ")
    with pytest.raises(subprocess.CalledProcessError):
        shell("echo $NOT_SET")


def test_one_job_follows_a_job_also_if_that_is_requeued(shell: Shell):
    near_its_end = 'steps=(); successor() { echo follows; }; notice; await "$following"; notice; await "$following"'
    assert shell(near_its_end).count("follows") == 1
    assert shell(near_its_end).count("follows") == 0


def test_another_try_is_made_when_no_job_could_follow(shell: Shell):
    first = 'steps=(); successor() { false; }; notice; await "$following"; '
    said = shell(first + 'successor() { echo follows; }; notice; await "$following"')
    assert said.count("follows") == 1


BUSY = """
mkfifo ready busy
successor() { echo asked; read -r said <busy; echo "$said"; }
bash -c 'trap exit USR1; echo >ready; while :; do sleep 0.1; done' &
steps=($!)
read -r said <ready
notice
notice
await "${steps[0]}" && echo "the step heard"
echo answered >busy
await "$following"
"""


def test_a_busy_slurm_is_asked_once_and_keeps_no_step_from_hearing_of_its_end(shell: Shell, tmp_path: Path):
    said = [line for line in shell(f"cd {tmp_path}; {BUSY}").splitlines() if "is near" not in line]
    assert sorted(said) == ["answered", "asked", "the step heard"]
    assert said[-1] == "answered"


NODE_SAYS = """
scontrol() {{ echo "NodeName=$3 NodeAddr=$3 NodeHostName=$3"; }}
getent() {{ printf "%s STREAM $2\n" {found}; }}
hostname() {{ echo "{own} "; }}
"""


@pytest.mark.parametrize(
    ("found", "own", "address"),
    [
        ("10.0.0.7 10.1.0.7", "10.9.0.7", "10.0.0.7"),
        ("127.0.1.1 10.0.0.7", "10.9.0.7", "10.0.0.7"),
        ("127.0.1.1", "fe80::7 10.9.0.7 172.17.0.1", "10.9.0.7"),
    ],
)
def test_a_node_is_where_others_reach_it(shell: Shell, found: str, own: str, address: str):
    assert shell(f"{NODE_SAYS.format(found=found, own=own)} node_address").strip() == address


@pytest.mark.parametrize(("node", "own"), [("nid1", "127.0.0.1"), ("nid2", "10.9.0.7")])
def test_a_node_that_nobody_reaches_ends_its_job_with_a_reason(shell: Shell, node: str, own: str):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        shell(f"{NODE_SAYS.format(found='127.0.1.1', own=own)} address=$(known_address {node}); echo on")
    assert "on\n" not in failed.value.stdout
    assert f"no address that other nodes can reach: node {node} (NodeAddr={node})" in failed.value.stderr
    assert "INTERFACE of the site file" in failed.value.stderr


def test_a_networks_interface_says_alone_where_a_node_is(shell: Shell):
    asked = """
ip() { echo "3: $6    inet 10.7.0.1/24 scope global $6"; }
srun() { "${@: -3}"; }
scontrol() { [[ $2 != hostnames ]] || echo nid1; }
export LEGATO_HOME SLURM_JOB_NODELIST=nid1
"""
    said = shell(f"{asked} export -f ip; control_hosts", INTERFACE="hsn0")
    assert said.split() == ["nid1", "10.7.0.1"]


ENGINE = """
hosts() { printf "nid%s\\n" 1 2 3 4; }
scontrol() { [[ $2 != hostnames ]] || hosts; }
node() { echo "$1 $LEGATO_WORKER__NODE_RANK of $LEGATO_WORKER__NUM_NODES at $LEGATO_WORKER__HEAD_ADDRESS"; exit; }
part() { # TASK ADDRESS
  SLURM_PROCID=$1 SLURMD_NODENAME=nid$(($1 + 1)) SLURM_STEP_NODELIST="nid[1-4]" SLURM_STEP_ID=0
  eval "node_address() { echo $2; }"
  worker_node
}
"""


def test_the_parts_of_an_engine_meet_where_the_first_says_that_it_is(shell: Shell):
    parts = "(part 3 10.0.0.4) & (part 1 10.0.0.2) & (part 2 10.0.0.3) & (part 0 10.0.0.1) & wait"
    assert sorted(shell(f"{ENGINE} {parts}", ENGINE_NODES="2").splitlines()) == [
        "worker 0 of 2 at 10.0.0.1:20014",
        "worker 0 of 2 at 10.0.0.3:20014",
        "worker 1 of 2 at 10.0.0.1:20014",
        "worker 1 of 2 at 10.0.0.3:20014",
    ]


def test_an_engine_takes_no_address_from_before_its_job_was_queued_again(shell: Shell):
    shell(f"{ENGINE} part 0 10.0.0.1", ENGINE_NODES="2")
    again = "export SLURM_RESTART_COUNT=1; (part 1 10.0.0.2) & (part 0 10.0.0.9) & wait"
    said = shell(f"{ENGINE} {again}", ENGINE_NODES="2").splitlines()
    assert [line.endswith(" at 10.0.0.9:20014") for line in said] == [True, True]


def test_an_engine_whose_first_node_says_nothing_ends_with_a_reason(shell: Shell):
    with pytest.raises(subprocess.CalledProcessError) as failed:
        shell(f"{ENGINE} sleep() {{ :; }}; part 1 10.0.0.2", ENGINE_NODES="2")
    assert not failed.value.stdout
    assert "node nid1, the first of this engine, has not said where it is" in failed.value.stderr


def test_what_leaves_the_site_file_leaves_the_jobs_that_follow(shell: Shell):
    follower = """
export LEGATO_SITE=$SHARED_DIR/other.env
sed -e 's/^TLS=.*/TLS="no"/' -e 's/^SETTINGS=.*/SETTINGS=/' "$SHARED_DIR/site.env" >"$LEGATO_SITE"
"""
    look = 'bash -c "source slurm/common.sh; env" | grep -E "^(LEGATO_(CONFIG|TLS)|LEGATO.*_FILE)" || true'
    values = {"TLS": "yes", "SETTINGS": "/s/legato.toml"}
    assert len(shell(look, **values).splitlines()) == 8
    assert not shell(follower + look, **values)


def test_the_stores_are_put_in_front_of_the_path_once(shell: Shell):
    path = shell("source slurm/common.sh; echo $PATH", STORES_BIN="/opt/stores").strip().split(":")
    assert (path[0], path.count("/opt/stores")) == ("/opt/stores", 1)


def test_what_fails_inside_of_a_substitution_fails(shell: Shell):
    with pytest.raises(subprocess.CalledProcessError):
        shell("said=$(false; echo no matter)")


def program(file: Path, script: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
    file.chmod(0o700)


SLURM_LOST_NID1 = """
case $* in
  "show hostnames nid1,nid2") printf "nid1\\nnid2\\n" ;;
  "show hostnames nid2") echo nid2 ;;
  "show node nid2") echo "NodeAddr=10.0.0.2" ;;
  *"show job 7") echo "JobId=7 Restarts=0 NodeList=nid2 " ;;
esac
"""


def test_a_second_control_node_ends_its_job_also_when_slurm_is_busy_at_first(shell: Shell, tmp_path: Path):
    program(tmp_path / "scontrol", SLURM_LOST_NID1)
    program(tmp_path / "sleep", "exec /bin/sleep 0.1")
    program(tmp_path / "scancel", f"echo >>{tmp_path}/asked; (($(wc -l <{tmp_path}/asked) > 1)) && kill $PPID")
    program(tmp_path / "venv/bin/python", "trap 'echo stopped; exit' TERM; while :; do /bin/sleep 0.1; done")
    program(tmp_path / "legato/jobs/control.sh", "echo $*")
    (tmp_path / "legato/logs").mkdir()
    job = "export LEGATO_HOME SLURM_PROCID=1 SLURM_JOB_NODELIST=nid1,nid2 SLURMD_NODENAME=nid2 SLURM_JOB_NAME=control"
    assert shell(f"{job}; bash slurm/control.sbatch node", VENV=str(tmp_path / "venv")) == "stopped\n"
    assert (tmp_path / "asked").read_text() == "\n\n"
    assert (tmp_path / "legato/logs/control-7.out").read_text().count("--dependency=afterany:7") == 1


@pytest.mark.parametrize("script", ["control", "workers", "legato"])
def test_a_job_without_its_environment_says_how_jobs_are_submitted(script: str):
    done = subprocess.run(["bash", f"slurm/{script}.sbatch"], env={}, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "LEGATO_HOME: is not set: submit jobs by `legato slurm submit`" in done.stderr


@pytest.mark.parametrize(
    ("variables", "job"),
    [("", "7"), ("SLURM_ARRAY_JOB_ID=5 SLURM_ARRAY_TASK_ID=2", "5_2")],
)
def test_a_job_knows_what_slurm_calls_it(shell: Shell, variables: str, job: str):
    assert shell(f'export {variables or "NONE="}; source slurm/common.sh; echo "$job"').strip() == job
