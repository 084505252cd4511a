"""`legato slurm logs`: what a service said, on all nodes."""

import time
from collections.abc import Iterator
from pathlib import Path

from legato.slurm.site import Site, SiteError

_LOOK_AGAIN_SECONDS = 0.5
"""A shared file system tells nobody of another node's writes."""
_TAIL_BYTES = 64 * 1024


def files(site: Site, service: str) -> list[Path]:
    """The logs of a service, or of the jobs themselves ("jobs"), oldest first."""
    folder = site.job_dir / "logs"
    found = folder.glob("*.out") if service == "jobs" else folder.glob(f"*/{service}*.log")
    return sorted(found, key=lambda file: file.stat().st_mtime)


def lines(site: Site, service: str, follow: bool) -> Iterator[str]:
    """The end of each log, then, with `follow`, what comes; each line behind its node. SiteError when there is none."""
    read: dict[Path, int] = {}
    while True:
        for file in files(site, service):
            yield from _new_lines(file, read)
        if not read:
            there = sorted({path.stem for path in site.job_dir.glob("logs/*/*.log")})
            raise SiteError(f"no log of {service} in {site.job_dir}/logs; there are: {', '.join(there) or 'none'}")
        if not follow:
            return
        time.sleep(_LOOK_AGAIN_SECONDS)


def _new_lines(file: Path, read: dict[Path, int]) -> Iterator[str]:
    with file.open("rb") as log:
        size = log.seek(0, 2)
        begin = read.get(file, max(0, size - _TAIL_BYTES))
        log.seek(begin)
        data = log.read(size - begin)
    whole = data[: data.rfind(b"\n") + 1]  # a line that is being written comes when it is whole
    read[file] = begin + len(whole)
    node = file.parent.name if file.suffix == ".log" else file.stem
    for line in whole.decode(errors="replace").splitlines():
        yield f"{node}: {line}"
