"""What an engine's second is worth: prices at which no step can hold more than it lasts.

A step with d decoding sequences, p tokens of prefill and k tokens of decoding contexts (what sequences share counted
once) lasts at least f(d + p), and d, k and d + p are bounded. Prices of a decode step, of a token of prefill and of a
token of room are sound when no step is worth more than it lasts:

    decode * d + room * k + prefill * p <= f(d + p)    for all d <= max_num_seqs, k <= kv_tokens, d + p <= budget

Then the worth of what a set of programs asks for is a lower limit of the engine seconds that it takes. `best_prices`
takes those of greatest worth: the dual of cutting the work into the best of steps. With room alone it is the limit of
algorithms.md 3.2 in byte-seconds (room = f(1) / kv_tokens), with prefill and decode alone its amortised rates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from scipy import optimize  # pyright: ignore[reportMissingTypeStubs] there are none

from sim.limits.capacity import Capacity
from sim.limits.demand import CallDemand, Demand

_optimize = cast(Any, optimize)  # untyped


@dataclass(frozen=True, slots=True)
class Prices:
    """Engine seconds for each unit."""

    prefill: float
    """Per token."""
    decode: float
    """Per step of a sequence."""
    room: float
    """Per token of context and step."""
    capacity: Capacity

    def prefill_seconds(self, tokens: float, pairs: float) -> float:
        return self.prefill * tokens + self.capacity.attention_seconds(pairs)

    def call_prefill_seconds(self, call: CallDemand) -> float:
        """Of what nobody else can bring."""
        return self.prefill_seconds(call.prefill_tokens, call.prefill_pairs) + self.capacity.sequence_seconds(1)

    def call_decode_seconds(self, call: CallDemand) -> float:
        priced = self.decode * call.decode_steps + self.room * call.decode_room
        reads = self.capacity.context_seconds(call.decode_context)
        return priced + self.capacity.sequence_seconds(call.decode_steps) + reads

    def growth_share(self, call: CallDemand) -> float:
        """Of a call's decode: what is due to the context that grows while it runs."""
        grown = call.decode_steps * (call.decode_steps + 1) / 2
        seconds = self.room * grown + self.capacity.context_seconds(grown)
        return seconds / self.call_decode_seconds(call) if grown else 0.0

    def program_seconds(self, demand: Demand) -> float:
        """Of a program's own, without what it shares with others."""
        calls = sum(self.call_prefill_seconds(call) + self.call_decode_seconds(call) for call in demand.calls)
        return calls + sum(self.prefill_seconds(piece.tokens, piece.pairs) for piece in demand.pieces)

    def shared_seconds(self, demand: Demand) -> float:
        """Of its part of what it shares."""
        return self.prefill_seconds(demand.shared_tokens, demand.shared_pairs)


def best_prices(demands: Sequence[Demand], capacity: Capacity) -> Prices:
    """Those of greatest worth for all of these programs together."""
    calls = [call for demand in demands for call in demand.calls]
    prefill = sum(call.prefill_tokens for call in calls) + sum(demand.shared_tokens for demand in demands)
    prefill += sum(piece.tokens for demand in demands for piece in demand.pieces)
    steps, room = sum(call.decode_steps for call in calls), sum(call.decode_room for call in calls)
    return _solve((prefill, float(steps), room), capacity)


def _solve(worth: tuple[float, float, float], capacity: Capacity) -> Prices:
    """f is linear between the points of its table, so the conditions at those points imply the others."""
    most = capacity.max_num_batched_tokens
    points = sorted({tokens for tokens, _ in capacity.profile.linear_ms if tokens < most} | {most})
    rows: list[tuple[float, float, float]] = []
    bounds: list[float] = []
    for num_decoding in range(min(capacity.max_num_seqs, most) + 1):
        for tokens in sorted({num_decoding, *(point for point in points if point > num_decoding)} - {0}):
            room = float(capacity.kv_tokens) if num_decoding else 0.0
            rows.append((float(tokens - num_decoding), float(num_decoding), room))
            bounds.append(capacity.step_seconds(tokens))
    # In units of the worth, so that the numbers that the solver sees are of one order.
    scale = np.array([1.0 / max(value, 1.0) for value in worth])
    solved = _optimize.linprog(
        -np.array(worth) * scale, A_ub=np.array(rows) * scale, b_ub=np.array(bounds), bounds=(0, None), method="highs"
    )
    if solved.status != 0:
        raise RuntimeError(f"the linear program was not solved: {solved.message}")
    prefill, decode, room = (float(value) for value in solved.x * scale)
    return Prices(prefill, decode, room, capacity)
