"""Prefill on one worker, decode on another: when that is better than to run a call whole.

For each call the scheduler compares, in predicted seconds (AMPD, arXiv 2602.14516, reconstructed from its abstract and
notes; DistServe, OSDI'24, for why a prefill is kept away from decodes at all):

    whole at D    wait at D + bring history to D + prefill(new | history at D) + decode
                  + weight * prefill seconds * calls that decode at D
    shared P, D   wait at P + bring history to P + prefill(new | history at P)
                  + transfer of what D lacks, or the wait for a slot at D if that is longer + rest of a block + decode

So long histories that D holds and P does not speak for D, long new text and full batches for P: the share of calls that
run whole rises with history/new, and with idle decoders.
"""

from collections.abc import Iterable, Mapping
from math import inf
from typing import NamedTuple

from services.scheduler.outlook import Outlook
from services.scheduler.pools import PULL_LATENCY_SECONDS
from services.scheduler.records import Call


class _Leg(NamedTuple):
    """The second half of a call at one decoder, in seconds."""

    wait: float
    transfer: float
    decode: float
    """With the rest of a block, and what that costs others."""

    def total(self) -> float:
        return max(self.wait, self.transfer) + self.decode


class Onward:
    """How a call would go on, once it was prefilled elsewhere."""

    def __init__(
        self,
        call: Call,
        decoders: Iterable[Outlook],
        matches: Mapping[str, int],
        decode_delay_weight: float,
        now: float,
    ) -> None:
        """`decoders`: of the namespace of whoever prefills. `matches`: blocks of the prompt in their own caches."""
        self._near: dict[str, _Leg] = {}
        """The best decoder beside each pool."""
        self._far: _Leg | None = None
        """The best of all, from another pool."""
        num_blocks = len(call.block_hashes)
        for outlook in decoders:
            seconds = outlook.block_seconds
            if seconds is None:
                continue
            missing = num_blocks - min(num_blocks, matches.get(outlook.worker_id, 0))
            wait, prefill, decode, delay = outlook.prediction(call, num_blocks, call.expected_output, now)
            decode += prefill + decode_delay_weight * delay
            near = _Leg(wait, missing * seconds.load, decode)
            far = _Leg(wait, missing * seconds.pull + PULL_LATENCY_SECONDS, decode)
            if (known := self._near.get(outlook.pool_id)) is None or near.total() < known.total():
                self._near[outlook.pool_id] = near
            if self._far is None or far.total() < self._far.total():
                self._far = far

    def completion_seconds(self, prefilled_seconds: float, pool_id: str) -> float:
        """Until the call is complete, if its prefill is done by then beside that pool; inf: nobody can go on."""
        legs = (self._near.get(pool_id), self._far)
        return min(
            (max(leg.wait, prefilled_seconds + leg.transfer) + leg.decode for leg in legs if leg is not None),
            default=inf,
        )
