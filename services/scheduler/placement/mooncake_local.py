"""The least predicted time to the first token by each instance's own cache: the third of Mooncake's four schedulers.

As mooncake.py, without transfers between instances (FAST'25); the others are random, least_loaded and mooncake.
"""

from services.scheduler.placement import mooncake


class Policy(mooncake.Policy):
    """Settings as of mooncake."""

    def __init__(self, ttft_slo_seconds: float = 0.0, tbt_slo_seconds: float = 0.0) -> None:
        super().__init__(1.0, ttft_slo_seconds, tbt_slo_seconds)

    def fetches(self, own_blocks: int, best_blocks: int) -> bool:
        return False
