"""The least predicted time to the first token, much longer caches being fetched: Mooncake (FAST'25), Algorithm 1.

For each instance: if the longest prefix that anyone has is more than `balancing_threshold` times the instance's own,
the prefill starts from that one and its transfer is paid; else from its own. The instance with the least
transfer + queue + prefill is taken. A call is refused if that is over `ttft_slo_seconds`, or if the instance's decode
steps would be slower than `tbt_slo_seconds` (0: never refused). All of this is read in the paper. Reconstruction: the
threshold, which it does not publish; instances prefill and decode; an instance's own prefix is its engine's cache and
its host's pool, from which loading is paid too; the queue's time is this scheduler's prediction.
"""

from math import inf

from services.scheduler.outlook import Outlook
from services.scheduler.placement import Placement
from services.scheduler.pools import PULL_LATENCY_SECONDS, Reach
from services.scheduler.prospects import Way
from services.scheduler.records import Call
from services.scheduler.supply import Supply


class Policy(Placement):
    """Calls do not move between workers once they were given one."""

    def __init__(
        self, balancing_threshold: float = 1.5, ttft_slo_seconds: float = 0.0, tbt_slo_seconds: float = 0.0
    ) -> None:
        if balancing_threshold < 1 or ttft_slo_seconds < 0 or tbt_slo_seconds < 0:
            raise ValueError("mooncake: need balancing_threshold >= 1, slo seconds >= 0")
        self._threshold = balancing_threshold
        self._ttft_seconds = ttft_slo_seconds or inf
        self._tbt_seconds = tbt_slo_seconds or inf

    def supply(self, call: Call, outlook: Outlook, cached_blocks: int, reach: Reach | None) -> Supply:
        seconds = outlook.block_seconds
        if seconds is None or reach is None:
            return Supply(cached_blocks, cached_blocks)
        own = reach.own(outlook.pool_id)
        own_blocks = max(cached_blocks, own.total)
        loaded = max(0, own.dram - cached_blocks)
        spent = loaded * seconds.load + (own_blocks - cached_blocks - loaded) * seconds.ssd
        other = reach.own(reach.other(outlook.pool_id))
        if not self.fetches(own_blocks, other.total):
            return Supply(cached_blocks, own_blocks, spent)
        pulled = max(0, other.dram - own_blocks)
        spent += pulled * seconds.pull + (other.total - own_blocks - pulled) * seconds.pull_ssd
        return Supply(cached_blocks, other.total, spent + PULL_LATENCY_SECONDS)

    def fetches(self, own_blocks: int, best_blocks: int) -> bool:
        """Is the longest prefix so much longer than its own?"""
        return best_blocks > self._threshold * own_blocks

    def cost(self, call: Call, way: Way, now: float) -> float:
        return way.first_token_seconds

    def moves(self, call: Call, way: Way, other: Outlook, cost: float, now: float) -> bool:
        return False

    def refuses(self, call: Call, best: Way) -> bool:
        step_seconds = best.decode_seconds / max(1.0, best.output_tokens)
        return best.first_token_seconds > self._ttft_seconds or step_seconds > self._tbt_seconds
