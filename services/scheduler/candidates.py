"""Candidates: the few workers that are looked at for a call, so that a decision costs as much with 1,000 as with 20.

Where its prompt's blocks are, in an engine's cache or in the pool beside it; where its program ran; and the least
occupied. A small roster is looked at whole.
"""

from itertools import islice

from services.scheduler.cache_index import CacheIndex
from services.scheduler.outlook import Outlook
from services.scheduler.pools import Pools
from services.scheduler.records import Call
from services.scheduler.roster import Roster

_HOLDERS = 3
"""Of the workers that hold most of the prompt."""
_BESIDE = 2
"""Of the workers beside one pool that holds most."""
_POOLS = 2


def candidates(call: Call, roster: Roster, index: CacheIndex, pools: Pools) -> list[Outlook]:
    """No worker twice; some may not take the call. Which they are depends on the past alone."""
    if roster.few:
        return list(roster.outlooks.values())
    found = dict.fromkeys(roster.least(call.prompt_tokens, len(call.avoided)))
    hashes, warm = call.block_hashes, False
    for worker_id in (call.program.pinned, call.program.home):
        if (outlook := roster.outlooks.get(worker_id)) is not None:
            found[outlook] = None
            warm = warm or (bool(hashes) and index.holds(worker_id, hashes[len(hashes) * 3 // 4]))
    if call.hold is not None:  # where its blocks are was found out then
        found[call.hold.outlook] = None
    elif hashes and not warm:  # else nobody has much more
        holders = index.holders(hashes, _block_size(call))
        found.update(dict.fromkeys(roster.least_of(holders, _HOLDERS)))
        for namespace_id in roster.namespaces():
            for pool_id in islice(pools.holders(namespace_id, hashes), _POOLS):
                found.update(dict.fromkeys(roster.least_of(roster.beside(pool_id), _BESIDE)))
    return list(found)


def _block_size(call: Call) -> int:
    """Of the call's blocks, which are of full ones of a power of two of tokens."""
    return 1 << ((call.prompt_tokens // len(call.block_hashes)).bit_length() - 1)
