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
        }
        command = ["bash", "-c", f"source slurm/common.sh; {script}"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

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
    near_its_end = "steps=(); successor() { echo follows; }; notice; notice"
    assert shell(near_its_end).count("follows") == 1
    assert shell(near_its_end).count("follows") == 0


def test_another_try_is_made_when_no_job_could_follow(shell: Shell):
    said = shell("steps=(); successor() { false; }; notice; successor() { echo follows; }; notice")
    assert said.count("follows") == 1


@pytest.mark.parametrize(
    ("variables", "job"),
    [("", "7"), ("SLURM_ARRAY_JOB_ID=5 SLURM_ARRAY_TASK_ID=2", "5_2")],
)
def test_a_job_knows_what_slurm_calls_it(shell: Shell, variables: str, job: str):
    assert shell(f'export {variables or "NONE="}; source slurm/common.sh; echo "$job"').strip() == job
