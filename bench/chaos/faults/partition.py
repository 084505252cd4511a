"""A node that nobody hears and that hears nobody: its cable is pulled."""

import asyncio
from random import Random

from bench.chaos import layout
from bench.chaos.cluster import Cluster


class Fault:
    """Of a whole node."""

    weight = 2.0

    @staticmethod
    def targets() -> list[str]:
        return list(layout.NODES)

    def __init__(self, target: str, random: Random) -> None:
        self.target = target
        self.seconds = round(random.uniform(1.0, 10.0), 1)
        self.text = f"its cable pulled for {self.seconds} s"

    async def inject(self, cluster: Cluster) -> None:
        await asyncio.to_thread(cluster.network.pull, self.target)

    async def heal(self, cluster: Cluster) -> None:
        await asyncio.to_thread(cluster.network.plug, self.target)
