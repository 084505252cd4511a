"""Each call runs where the batch is emptiest, whatever is cached where: what load balancers do."""

from services.scheduler.placement import Placement
from services.scheduler.prospects import Way
from services.scheduler.records import Call


class Policy(Placement):
    """Without settings."""

    def cost(self, call: Call, way: Way, now: float) -> float:
        return way.outlook.load
