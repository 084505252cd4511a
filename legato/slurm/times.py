"""Walltimes as Slurm writes them."""

import math
import re

_WRITTEN = re.compile(
    r"(?P<unlimited>UNLIMITED|INFINITE)"
    r"|(?P<days>\d+)-(?P<day_hours>\d+)(:(?P<day_minutes>\d+)(:(?P<day_seconds>\d+))?)?"
    r"|(?P<hours>\d+):(?P<hour_minutes>\d+):(?P<hour_seconds>\d+)"
    r"|(?P<minutes>\d+)(:(?P<seconds>\d+))?"
)


def seconds(text: str) -> float:
    """What `--time=TEXT` gives a job: "minutes", "minutes:seconds", "hours:minutes:seconds", "days-hours",
    "days-hours:minutes" or "days-hours:minutes:seconds", rounded up to a minute as Slurm does; infinite for
    "UNLIMITED", "INFINITE" and 0. ValueError for anything else."""
    if not (written := _WRITTEN.fullmatch(text)):
        raise ValueError(f"no walltime: {text}")
    said = {unit: int(number or 0) for unit, number in written.groupdict().items() if unit != "unlimited"}
    minutes = (
        (said["days"] * 24 + said["day_hours"] + said["hours"]) * 60
        + (said["day_minutes"] + said["hour_minutes"] + said["minutes"])
        + math.ceil((said["day_seconds"] + said["hour_seconds"] + said["seconds"]) / 60)
    )
    return minutes * 60.0 or math.inf
