"""Prospects: the ways in which the workers of a pass can run one call, and what each costs.

A call runs whole on one worker, or a prefill worker prefills it and another goes on (prefill.py). With prefill workers
the cost of running it whole includes the delay of what decodes on that worker, weighed; else it is the predicted
seconds until completion alone.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from services.scheduler.cache_index import CacheIndex
from services.scheduler.limits import Limits
from services.scheduler.outlook import Outlook
from services.scheduler.pool_events import Role
from services.scheduler.pools import Pools, Reach
from services.scheduler.prefill import Onward
from services.scheduler.records import Call
from services.scheduler.supply import Supply, supply


class Way(NamedTuple):
    """One way to run a call."""

    cost: float
    """What is compared."""
    outlook: Outlook
    supply: Supply
    seconds: float
    """Predicted until it is done there."""
    output_tokens: float
    """To be generated there."""
    hand_off: bool
    """Prefill alone."""


class Found(NamedTuple):
    """What costs most to find out about a call, by namespace, as far as it was asked for."""

    reaches: dict[str, Reach | None]
    """What the pools hold of it."""
    onwards: dict[str, Onward]
    """How it goes on when it is prefilled elsewhere."""


class Roster:
    """The workers of a pass by what they are for, and what there is to know of KV."""

    def __init__(self, outlooks: Sequence[Outlook], index: CacheIndex, pools: Pools, limits: Limits) -> None:
        self.outlooks = outlooks
        self.index = index
        self.pools = pools
        self.limits = limits
        self.decoders = [outlook for outlook in outlooks if outlook.role is not Role.PREFILL]
        self.prefillers = [outlook for outlook in outlooks if outlook.role is Role.PREFILL and outlook.block_seconds]
        """Without those whose pool does not answer: nobody could go on from what they compute."""


class Prospects:
    """Of one call, at some workers of the roster."""

    def __init__(
        self,
        call: Call,
        roster: Roster,
        outlooks: Sequence[Outlook],
        prefill: bool = True,
        found: Found | None = None,
    ) -> None:
        """`prefill`: look also at those of `outlooks` that could prefill it alone. `found`: from a moment before."""
        self._call = call
        self._roster = roster
        self._shared = bool(roster.prefillers and call.may_hand_off)
        """It may be shared between two workers, so that it matters whom it delays."""
        self._decoders, self._prefillers = self._split(outlooks, prefill)
        self._matches: dict[str, int] = {}
        self.found = found or Found({}, {})

    def ways(self) -> list[Way]:
        """Every way, in the order of the workers; none: no worker takes the call."""
        self._match(self._decoders)
        ways = [self._whole(outlook) for outlook in self._decoders]
        if self._prefillers:
            self._match(self._prefillers)
            ways += [self._handed_off(outlook) for outlook in self._prefillers]
        return ways

    def _split(self, outlooks: Sequence[Outlook], prefill: bool) -> tuple[list[Outlook], list[Outlook]]:
        call, roster = self._call, self._roster
        if len(roster.decoders) == len(roster.outlooks):
            return _able(call, outlooks), []
        if not any(call.prompt_tokens < outlook.max_model_len for outlook in roster.decoders):
            return _able(call, outlooks), []  # whole on a prefill worker: better there than nowhere
        decoders = _able(call, [outlook for outlook in outlooks if outlook.role is not Role.PREFILL])
        if not self._shared or not prefill:
            return decoders, []
        chosen = set(outlooks)
        return decoders, _able(call, [outlook for outlook in roster.prefillers if outlook in chosen])

    def _match(self, outlooks: Iterable[Outlook]) -> None:
        worker_ids = [outlook.worker_id for outlook in outlooks]
        self._matches.update(self._roster.index.match(self._call.block_hashes, worker_ids))

    def _whole(self, outlook: Outlook) -> Way:
        call = self._call
        supplied = self._supply(outlook)
        seconds = outlook.completion_seconds(call, supplied, call.expected_output)
        cost = seconds
        if self._shared:
            cost += self._roster.limits.decode_delay_weight * outlook.delay_seconds(call, supplied.blocks)
        return Way(cost, outlook, supplied, seconds, call.expected_output, False)

    def _handed_off(self, outlook: Outlook) -> Way:
        supplied = self._supply(outlook)
        seconds = outlook.completion_seconds(self._call, supplied, 1.0)
        cost = self._onward(outlook.namespace_id).completion_seconds(seconds, outlook.pool_id)
        return Way(cost, outlook, supplied, seconds, 1.0, True)

    def _supply(self, outlook: Outlook) -> Supply:
        cached_blocks = self._matches.get(outlook.worker_id, 0)
        if outlook.block_seconds is None:
            return Supply(cached_blocks, cached_blocks)
        namespace_id, reaches = outlook.namespace_id, self.found.reaches
        if namespace_id not in reaches:
            arriving_at = self._call.prefilled_at or ""
            reaches[namespace_id] = self._roster.pools.reach(namespace_id, self._call.block_hashes, arriving_at)
        return supply(cached_blocks, outlook.pool_id, outlook.block_seconds, reaches[namespace_id])

    def _onward(self, namespace_id: str) -> Onward:
        if namespace_id not in self.found.onwards:
            same = [outlook for outlook in self._roster.decoders if outlook.namespace_id == namespace_id]
            able = _able(self._call, same)
            self._match(able)
            weight = self._roster.limits.decode_delay_weight
            self.found.onwards[namespace_id] = Onward(self._call, able, self._matches, weight)
        return self.found.onwards[namespace_id]


def _able(call: Call, outlooks: Iterable[Outlook]) -> list[Outlook]:
    """Those that take the call, without the ones that it avoids unless there are no others."""
    able = [outlook for outlook in outlooks if call.prompt_tokens < outlook.max_model_len]
    if not call.avoided:
        return able
    return [outlook for outlook in able if not outlook.worker.avoided_by(call)] or able
