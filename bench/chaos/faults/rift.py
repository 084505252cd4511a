"""Two nodes that do not hear each other, while everybody else hears both: who is there depends on whom one asks."""

import asyncio
from itertools import combinations
from random import Random

from bench.chaos import layout
from bench.chaos.cluster import Cluster


class Fault:
    """Between two nodes."""

    weight = 1.0

    @staticmethod
    def targets() -> list[str]:
        return [f"{one}+{other}" for one, other in combinations(layout.NODES, 2)]

    def __init__(self, target: str, random: Random) -> None:
        self.target = target
        self.seconds = round(random.uniform(2.0, 10.0), 1)
        self.text = f"deaf to each other for {self.seconds} s"

    async def inject(self, cluster: Cluster) -> None:
        await asyncio.to_thread(cluster.network.part, self.target.split("+"))

    async def heal(self, cluster: Cluster) -> None:
        await asyncio.to_thread(cluster.network.part, self.target.split("+"), apart=False)
