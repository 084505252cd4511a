"""Wall clocks that can be set wrong, one for each process, as a stepped or badly synchronised host's would be.

A small library (wall_clock.c), compiled on the spot, stands between a process and the C library. Monotonic clocks are
left alone, as a step of a host's clock leaves them alone.
"""

import shutil
import struct
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("wall_clock.c")


def build(folder: Path) -> Path | None:
    """The library; None: there is no compiler here, and clocks stay right. Raises CalledProcessError."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    library = folder / "wall_clock.so"
    command = (compiler, "-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-o", library, _SOURCE, "-ldl", "-lm")
    subprocess.run(command, check=True)
    return library


def environment(library: Path, file: Path) -> dict[str, str]:
    """What gives a process a clock of its own, right at first."""
    put(file, 0.0)
    return {"LD_PRELOAD": str(library), "WALL_CLOCK_ERROR": str(file)}


def put(file: Path, seconds: float) -> None:
    """Let the clock be wrong by so much, from now on."""
    if not file.exists():
        file.touch()
    with file.open("r+b") as opened:
        opened.write(struct.pack("d", seconds))  # in place: processes have it mapped
