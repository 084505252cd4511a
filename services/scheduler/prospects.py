"""Prospects: the ways in which some workers can run one call, and what each costs.

The cost of a way is the predicted seconds until the call's completion, and what others lose by it: a prefill slows
what decodes beside it for as long as it lasts, and what is driven out of the worker's KV must be computed anew. So the
sum of all calls' seconds is what is kept small (after AMPD, arXiv 2602.14516, which counts the delay of co-running
decodes).
A call runs whole on one worker, or a prefill worker prefills it and another goes on (prefill.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from services.scheduler.cache_index import CacheIndex
from services.scheduler.limits import Limits
from services.scheduler.outlook import Outlook
from services.scheduler.pool_events import Role
from services.scheduler.pools import Pools, Reach
from services.scheduler.prefill import Onward
from services.scheduler.records import Call
from services.scheduler.roster import Roster
from services.scheduler.supply import Supply

if TYPE_CHECKING:
    from services.scheduler.placement import Placement


class Way(NamedTuple):
    """One way to run a call. (A tuple, because one is made for each worker that is looked at.)"""

    cost: float
    """What is compared."""
    outlook: Outlook
    supply: Supply
    ahead_seconds: float
    """Predicted until its prefill can begin."""
    prefill_seconds: float
    decode_seconds: float
    output_tokens: float
    """To be generated there."""
    hand_off: bool
    """Prefill alone."""

    @property
    def first_token_seconds(self) -> float:
        """Predicted until its prefill is done."""
        return self.ahead_seconds + self.supply.seconds + self.prefill_seconds

    @property
    def seconds(self) -> float:
        """Predicted until it is done there."""
        return self.ahead_seconds + self.supply.seconds + self.prefill_seconds + self.decode_seconds


class Found(NamedTuple):
    """What costs most to find out about a call, by namespace, as far as it was asked for."""

    reaches: dict[str, Reach | None]
    """What the pools hold of it."""
    onwards: dict[str, Onward]
    """How it goes on when it is prefilled elsewhere."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What there is to know besides the workers."""

    index: CacheIndex
    pools: Pools
    limits: Limits
    policy: Placement


class Prospects:
    """Of one call, at some workers of a roster."""

    def __init__(
        self,
        call: Call,
        outlooks: Sequence[Outlook],
        roster: Roster,
        facts: Facts,
        now: float,
        *,
        prefill: bool = True,
        found: Found | None = None,
    ) -> None:
        """`prefill`: look also at those of `outlooks` that could prefill it alone. `found`: from a moment before."""
        self._call = call
        self._roster = roster
        self._facts = facts
        self._now = now
        self._decoders, self._prefillers = self._split(outlooks, prefill)
        self._matches: dict[str, int] = {}
        self.found = found or Found({}, {})

    def ways(self) -> list[Way]:
        """Every way, in the order of the workers; none: none of them takes the call."""
        self._match(self._decoders)
        ways = [self._whole(outlook) for outlook in self._decoders]
        if self._prefillers:
            self._match(self._prefillers)
            ways += [self._handed_off(outlook) for outlook in self._prefillers]
        return ways

    def _split(self, outlooks: Sequence[Outlook], prefill: bool) -> tuple[list[Outlook], list[Outlook]]:
        call, roster = self._call, self._roster
        if not roster.has_prefillers:
            return _able(call, outlooks), []
        if not roster.takes_prompt(call.prompt_tokens, prefills=False):
            return _able(call, outlooks), []  # whole on a prefill worker: better there than nowhere
        decoders = _able(call, [outlook for outlook in outlooks if outlook.role is not Role.PREFILL])
        if not prefill or not call.may_hand_off:
            return decoders, []
        # Without those whose pool does not answer: nobody could go on from what they compute.
        prefillers = [outlook for outlook in outlooks if outlook.role is Role.PREFILL and outlook.block_seconds]
        return decoders, _able(call, prefillers)

    def _match(self, outlooks: Iterable[Outlook]) -> None:
        worker_ids = [outlook.worker_id for outlook in outlooks]
        self._matches.update(self._facts.index.match(self._call.block_hashes, worker_ids))

    def _whole(self, outlook: Outlook) -> Way:
        call, facts = self._call, self._facts
        output_tokens = call.expected_output
        supplied = self._supply(outlook)
        ahead, prefill, decode, delay = outlook.prediction(call, supplied.blocks, output_tokens, self._now)
        cost = ahead + supplied.seconds + prefill + decode + facts.limits.decode_delay_weight * delay
        cost += outlook.overflow_seconds(call, output_tokens, self._now)
        return self._judged(Way(cost, outlook, supplied, ahead, prefill, decode, output_tokens, False))

    def _handed_off(self, outlook: Outlook) -> Way:
        supplied = self._supply(outlook)
        ahead, prefill, decode, _ = outlook.prediction(self._call, supplied.blocks, 1.0, self._now)
        seconds = ahead + supplied.seconds + prefill + decode
        cost = self._onward(outlook.namespace_id).completion_seconds(seconds, outlook.pool_id)
        return self._judged(Way(cost, outlook, supplied, ahead, prefill, decode, 1.0, True))

    def _judged(self, way: Way) -> Way:
        cost = self._facts.policy.cost(self._call, way, self._now)
        return way if cost == way.cost else way._replace(cost=cost)

    def _supply(self, outlook: Outlook) -> Supply:
        """What placed calls are about to have there will be there by the time that this call is; until then it is not
        in the cache, and the call's plan for its KV does without it."""
        found, shared_blocks = self._found(outlook), outlook.worker.shared_blocks(self._call)
        return found if found.blocks >= shared_blocks else found._replace(blocks=shared_blocks, seconds=0.0)

    def _found(self, outlook: Outlook) -> Supply:
        call = self._call
        cached_blocks = self._matches.get(outlook.worker_id, 0)
        if outlook.block_seconds is None:
            return Supply(cached_blocks, cached_blocks)
        namespace_id, reaches = outlook.namespace_id, self.found.reaches
        if namespace_id not in reaches:
            near = [each.pool_id for each in (*self._decoders, *self._prefillers)]
            pools, hashes = self._facts.pools, call.block_hashes
            reaches[namespace_id] = pools.reach(namespace_id, hashes, call.prefilled_at or "", near)
        return self._facts.policy.supply(call, outlook, cached_blocks, reaches[namespace_id])

    def _onward(self, namespace_id: str) -> Onward:
        if namespace_id not in self.found.onwards:
            known = dict.fromkeys([*self._decoders, *self._roster.least(self._call.prompt_tokens)])
            same = [each for each in known if each.role is not Role.PREFILL and each.namespace_id == namespace_id]
            able = _able(self._call, same)
            self._match([outlook for outlook in able if outlook.worker_id not in self._matches])
            weight = self._facts.limits.decode_delay_weight
            self.found.onwards[namespace_id] = Onward(self._call, able, self._matches, weight, self._now)
        return self.found.onwards[namespace_id]


def _able(call: Call, outlooks: Iterable[Outlook]) -> list[Outlook]:
    """Those that take the call, without the ones that it avoids unless there are no others."""
    able = [outlook for outlook in outlooks if call.prompt_tokens < outlook.max_model_len]
    if not call.avoided:
        return able
    return [outlook for outlook in able if not outlook.worker.avoided_by(call)] or able
