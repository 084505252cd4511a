"""A node's cable passes little: a token bucket before it, and two seconds of queue before what comes is dropped."""

import asyncio
from random import Random

from bench.chaos import layout
from bench.chaos.cluster import Cluster


class Fault:
    """Both ways."""

    weight = 1.0

    @staticmethod
    def targets() -> list[str]:
        return list(layout.NODES)

    def __init__(self, target: str, random: Random) -> None:
        self.target = target
        self.seconds = round(random.uniform(5.0, 15.0), 1)
        self.kbit_per_second = random.choice((256, 512, 1024, 4096))
        self.text = f"{self.kbit_per_second} kbit/s for {self.seconds} s"

    async def inject(self, cluster: Cluster) -> None:
        await asyncio.to_thread(cluster.network.slow, self.target, self.kbit_per_second)

    async def heal(self, cluster: Cluster) -> None:
        await asyncio.to_thread(cluster.network.hurry, self.target)
