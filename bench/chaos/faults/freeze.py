"""SIGSTOP, later SIGCONT: sockets stay open and nothing answers; then it goes on, believing that no time has passed."""

import signal
from random import Random

from bench.chaos import layout
from bench.chaos.cluster import Cluster


class Fault:
    """Shorter and longer than a lease in the registry."""

    weight = 3.0
    targets = staticmethod(layout.names)

    def __init__(self, target: str, random: Random) -> None:
        self.target = target
        self.seconds = round(random.uniform(1.0, 9.0), 1)
        self.text = f"frozen for {self.seconds} s"

    async def inject(self, cluster: Cluster) -> None:
        cluster.signal(self.target, signal.SIGSTOP)

    async def heal(self, cluster: Cluster) -> None:
        cluster.signal(self.target, signal.SIGCONT)
