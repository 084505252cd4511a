"""`legato calibrate`: hands over to the workers' own measuring code, which the wheel does not carry.

What it writes is read by the simulator, and that lives in a checkout too; so a checkout is where it runs.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from legato.client import Client

_MODULE = "services.worker.calibrate"


def run(client: Client, arguments: argparse.Namespace) -> int:
    """The command; the exit code is that of what it hands over to."""
    if not Path(*_MODULE.split(".")).is_dir():
        print("legato: calibrate runs in a checkout of Legato, with its services installed", file=sys.stderr)  # noqa: T201
        return 1
    command = [sys.executable, "-m", _MODULE, "--address", client.addresses.said, "--out", str(arguments.out)]
    if arguments.model:
        command += ["--model", arguments.model]
    return subprocess.run(command, check=False).returncode
