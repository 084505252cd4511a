"""No room on the file system that a service writes to, and then room again."""

import asyncio
import errno
import os
from pathlib import Path
from random import Random

from bench.chaos import layout
from bench.chaos.cluster import Cluster

_FILLER = "filler"
_STEP_BYTES = 1 << 20


class Fault:
    """etcd ends itself when it cannot write, and again at each start: it gets no time to give up for good."""

    weight = 1.0

    @staticmethod
    def targets() -> list[str]:
        return list(layout.DISKS)

    def __init__(self, target: str, random: Random) -> None:
        self.target = target
        self.seconds = round(random.uniform(1.0, 3.0) if target == "etcd" else random.uniform(3.0, 10.0), 1)
        self.text = f"its disk full for {self.seconds} s"

    async def inject(self, cluster: Cluster) -> None:
        await asyncio.to_thread(_fill, cluster.disk(self.target) / _FILLER)

    async def heal(self, cluster: Cluster) -> None:
        (cluster.disk(self.target) / _FILLER).unlink(missing_ok=True)


def _fill(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    size, step = 0, _STEP_BYTES
    try:
        while step:
            try:
                os.posix_fallocate(descriptor, size, step)
                size += step
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                step //= 2
    finally:
        os.close(descriptor)
