"""Supply: what of a call's prompt a worker need not compute, where it comes from, and how long bringing it takes.

Blocks come in the order of their chain: the engine's own cache, then the worker's pool (shared memory, disk), then the
best other pool. Whatever is brought must be contiguous, so the question is only up to which block to bring: up to the
one where seconds of bringing less seconds of computing are least (transfer or recompute, whichever is less).
"""

from typing import NamedTuple

from services.scheduler.pools import PULL_LATENCY_SECONDS, BlockSeconds, Reach
from services.scheduler.replica_index import NOTHING


class Supply(NamedTuple):
    """Leading blocks of a prompt. (A tuple, because one is made for each worker that is looked at.)"""

    cached_blocks: int
    """In the engine's own cache."""
    blocks: int
    """The same and what is brought."""
    seconds: float = 0.0
    """Of bringing."""


def supply(cached_blocks: int, pool_id: str, seconds: BlockSeconds | None, reach: Reach | None) -> Supply:
    """The cheapest for a worker beside that pool. `reach` None: no pool holds anything of the call."""
    if seconds is None or reach is None:
        return Supply(cached_blocks, cached_blocks)
    own = reach.own(pool_id)
    other_id = reach.other(pool_id)
    other = reach.own(other_id) if other_id else NOTHING
    blocks, least_spent = cached_blocks, 0.0
    most_saved = spent = 0.0
    at = cached_blocks
    for end, block_seconds, latency_seconds in (
        (own.dram, seconds.load, 0.0),
        (own.total, seconds.ssd, 0.0),
        (other.dram, seconds.pull, PULL_LATENCY_SECONDS),
        (other.total, seconds.pull_ssd, PULL_LATENCY_SECONDS),
    ):
        if end > at:
            spent += latency_seconds + (end - at) * block_seconds
            at = end
            saved = (at - cached_blocks) * seconds.compute - spent
            if saved > most_saved:
                blocks, least_spent, most_saved = at, spent, saved
    return Supply(cached_blocks, blocks, least_spent)
