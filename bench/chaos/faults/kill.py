"""kill -9: the process is gone between two instructions. Whoever started it starts it again."""

import signal
from random import Random

from bench.chaos import layout
from bench.chaos.cluster import Cluster


class Fault:
    """`seconds`: what a start takes, for which its cost is looked at."""

    weight = 3.0
    targets = staticmethod(layout.names)

    def __init__(self, target: str, random: Random) -> None:
        self.target = target
        self.seconds = 5.0
        self.text = "kill -9"

    async def inject(self, cluster: Cluster) -> None:
        cluster.signal(self.target, signal.SIGKILL)

    async def heal(self, cluster: Cluster) -> None:
        """Nothing is to be taken back."""
