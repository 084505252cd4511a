"""A process's wall clock steps, forwards or back, and later back to right."""

from random import Random

from bench.chaos import clock, layout
from bench.chaos.cluster import Cluster

_JUMPS = (-86_400.0, -3600.0, -5.0, 5.0, 3600.0, 86_400.0)


class Fault:
    """Of one process; the other processes of its host keep their time."""

    weight = 1.0

    @staticmethod
    def targets() -> list[str]:
        return [name for name in layout.names() if name not in layout.NO_CLOCK]

    def __init__(self, target: str, random: Random) -> None:
        self.target = target
        self.seconds = round(random.uniform(3.0, 15.0), 1)
        self.jump_seconds = random.choice(_JUMPS)
        self.text = f"its clock {self.jump_seconds:+.0f} s for {self.seconds} s"

    async def inject(self, cluster: Cluster) -> None:
        clock.put(cluster.clock(self.target), self.jump_seconds)

    async def heal(self, cluster: Cluster) -> None:
        clock.put(cluster.clock(self.target), 0.0)
