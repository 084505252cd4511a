"""The site file: bash and Python read the same values, and what is wrong in it is named."""

import itertools
import math
import re
import subprocess
from pathlib import Path

import pytest

from legato.slurm import site, times
from legato.slurm.site import SiteError

SHIPPED = Path("slurm/site.env")
HOME = {"HOME": "/home/ada", "USER": "ada"}


def changed(**values: str) -> str:
    """The shipped file with some keys set again at its end."""
    return SHIPPED.read_text(encoding="utf-8") + "".join(f"{key}={value}\n" for key, value in values.items())


def test_the_shipped_file_is_complete():
    assert site.parse(SHIPPED.read_text(encoding="utf-8"), HOME)["SHARED_DIR"] == "/home/ada/legato-jobs"


def test_bash_reads_the_same_values():
    text = changed(
        CONTROL_OPTIONS='"--qos=shared --constraint=cpu"', KV_DISK_DIR="${SHARED_DIR}/kv  # not on the nodes"
    )
    values = site.parse(text, HOME)
    script = f"set -eu\n{text}\n" + "".join(f'printf "%s\\0" "${key}"\n' for key in values)
    said = subprocess.run(["bash", "-c", script], env=HOME, capture_output=True, check=True, text=True).stdout
    assert said.split("\0")[:-1] == list(values.values())


def test_every_key_is_explained():
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    for comment, line in itertools.pairwise(lines):
        if "=" in line and not line.startswith("#"):
            assert re.match("# [^-]", comment), line


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("WORKERS", "two", "WORKERS: expected a number"),
        ("WORKER_MEMORY", "lots", "WORKER_MEMORY: expected a size such as 200G"),
        ("CONTROL_TIME", "a day", "line"),
        ("CONTROL_TIME", "1day", "CONTROL_TIME: expected a time"),
        ("CONTROL_TIME", "5", "CONTROL_TIME: expected more than NOTICE_SECONDS (300), got 5"),
        ("WORKER_TIME", "4:30", "WORKER_TIME: expected more than NOTICE_SECONDS (300), got 4:30"),
        ("ENGINE", "sglang", "ENGINE: expected one of vllm, simulated"),
        ("SHARED_DIR", "jobs", "SHARED_DIR: expected an absolute path"),
        ("CONTROL_NODES", "3", "CONTROL_NODES: expected one of 1, 2"),
        ("MARGIN_SECONDS", "300", "MARGIN_SECONDS: expected less than NOTICE_SECONDS"),
        ("DRAIN_SECONDS", "60", "DRAIN_SECONDS: expected at most STOP_SECONDS"),
        ("PREFILL_WORKERS", "1", "PREFILL_WORKERS and DECODE_WORKERS: expected both or neither"),
        ("TENSOR_PARALLEL", "3", "TENSOR_PARALLEL * PIPELINE_PARALLEL: expected a divisor of GPUS_PER_NODE, 4, got 3"),
        ("ENGINE_NODES", "2", "ENGINE_NODES: expected TENSOR_PARALLEL * PIPELINE_PARALLEL to be GPUS_PER_NODE"),
        ("ENGINE_NODES", "0", "ENGINE_NODES: expected a number, at least 1"),
        ("VENV", "", "VENV: expected an environment"),
        ("WORKER_PARTITON", "gpu", "unknown key WORKER_PARTITON; did you mean WORKER_PARTITION?"),
        ("MODEL_PATH", "$WEIGHTS/llama", "MODEL_PATH: $WEIGHTS is not set"),
        ("MODEL_PATH", "${WEIGHTS:-/tmp}", "MODEL_PATH: only $NAME"),
        ("MODEL_PATH", "'$HOME/llama'", "MODEL_PATH: use double quotes"),
    ],
)
def test_what_is_wrong_is_named(key: str, value: str, said: str):
    with pytest.raises(SiteError) as raised:
        site.parse(changed(**{key: value}), HOME)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90", 5400),
        ("4:30", 300),
        ("1:02:03", 3780),
        ("2-3", 183600),
        ("2-3:04", 183840),
        ("2-3:04:05", 183900),
        ("0", math.inf),
        ("UNLIMITED", math.inf),
        ("INFINITE", math.inf),
    ],
)
def test_walltimes_are_what_slurm_makes_of_them(written: str, seconds: float):
    """In whole minutes, seconds rounded up; none is no limit."""
    assert times.seconds(written) == seconds


@pytest.mark.parametrize("written", ["", "1day", "1:2:3:4", "1-", "-1", "1-2:3:4:5", "1.5", "unlimited minutes"])
def test_what_slurm_does_not_take_is_no_walltime(written: str):
    with pytest.raises(ValueError, match="no walltime"):
        times.seconds(written)


def test_a_key_that_is_missing_is_named():
    lines = SHIPPED.read_text(encoding="utf-8").splitlines()
    with pytest.raises(SiteError, match="MODEL_PATH is missing"):
        site.parse("\n".join(line for line in lines if not line.startswith("MODEL_PATH=")), HOME)


def test_without_a_site_file_it_says_how_to_name_one():
    with pytest.raises(SiteError, match="LEGATO_SITE"):
        site.read(environ={})


def test_the_job_directory_may_be_named(tmp_path: Path):
    file = tmp_path / "site.env"
    file.write_text(changed(), encoding="utf-8")
    assert site.read(str(file), HOME).job_dir == Path("/home/ada/legato-jobs/legato")
    assert site.read(None, {**HOME, "LEGATO_SITE": str(file), "LEGATO_JOB_DIR": "/x"}).job_dir == Path("/x")
