"""What fio gives on a directory's disk, where fio is installed: sequential direct I/O in pieces of 4 MiB."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

_SIZE = "512m"
_JOBS = 4


@dataclass(frozen=True, slots=True)
class Speeds:
    """Bytes a second."""

    write: float
    read: float


def measure(directory: Path) -> Speeds | None:
    """None: there is no fio here. Leaves nothing behind."""
    if shutil.which("fio") is None:
        return None
    return Speeds(_bytes_per_second(directory, "write"), _bytes_per_second(directory, "read"))


def _bytes_per_second(directory: Path, way: str) -> float:
    file = directory / "fio.data"
    command = [
        *("fio", f"--name={way}", f"--rw={way}", f"--filename={file}", f"--size={_SIZE}", "--bs=4m", "--direct=1"),
        *("--ioengine=psync", "--thread", f"--numjobs={_JOBS}", "--offset_increment=25%", "--io_size=128m"),
        *("--end_fsync=1", "--group_reporting", "--output-format=json"),
    ]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if way == "read":
        file.unlink()
    return float(json.loads(output[output.index("{") :])["jobs"][0][way]["bw_bytes"])
