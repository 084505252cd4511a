"""A timeline as single moments, and how much of it there is: what both the replay and the limit count."""

from collections.abc import Iterator, Sequence
from itertools import accumulate

from bench.retention.timeline import Request
from services.kvpool.cost import Costs

Moment = tuple[float, bool, int]
"""(seconds, whether the call ends, which call)."""


def moments(requests: Sequence[Request]) -> list[Moment]:
    """Begins and ends of all calls, in order; what begins and ends at one time begins first."""
    begins = [(request.at, False, number) for number, request in enumerate(requests)]
    return sorted(begins + [(request.end, True, number) for number, request in enumerate(requests)])


def touched(request: Request, ends: bool) -> Sequence[int]:
    """The blocks that are used when a call begins (its prompt's), and that are new when it ends."""
    return request.blocks[request.num_prompt :] if ends else request.blocks[: request.num_prompt]


def peak_blocks(requests: Sequence[Request]) -> int:
    """The working set: the most blocks that are, at one time, between their first and their last use."""
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    order = moments(requests)
    for at, (_, ends, number) in enumerate(order):
        for block in touched(requests[number], ends):
            first.setdefault(block, at)
            last[block] = at
    changes = [0] * (len(order) + 1)
    for block, at in first.items():
        changes[at] += 1
        changes[last[block]] -= 1
    return max(accumulate(changes))


def compulsory_seconds(requests: Sequence[Request], block_tokens: int, costs: Costs) -> float:
    """To compute what was never computed before: no pool can spare that."""
    seen: set[int] = set()
    total = 0.0
    for _, ends, number in moments(requests):
        blocks = touched(requests[number], ends)
        if not ends:
            known = next((at for at, block in enumerate(blocks) if block not in seen), len(blocks))
            total += costs.recompute_seconds(known * block_tokens, (len(blocks) - known) * block_tokens)
        seen.update(blocks)
    return total


def reuses(requests: Sequence[Request]) -> Iterator[tuple[int, int, int, int]]:
    """What could be spared: runs of blocks of one prompt that were last used at one moment, as (the moment of that use,
    the moment of this, first block, number of blocks), those of one prompt together and in order."""
    last: dict[int, int] = {}
    for at, (_, ends, number) in enumerate(moments(requests)):
        blocks = touched(requests[number], ends)
        start = 0
        while not ends and start < len(blocks) and (before := last.get(blocks[start])) is not None:
            end = start
            while end < len(blocks) and last.get(blocks[end]) == before:
                end += 1
            yield before, at, start, end - start
            start = end
        last.update(dict.fromkeys(blocks, at))
