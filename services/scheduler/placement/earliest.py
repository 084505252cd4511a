"""Each call runs where it is predicted to complete first."""

from services.scheduler.prospects import Way
from services.scheduler.records import Call


class Policy:
    """Without settings."""

    def cost(self, call: Call, way: Way) -> float:
        return way.cost
