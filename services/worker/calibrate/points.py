"""Which engine steps are measured: twelve, spread so that each term of the cost model stands out in some of them.

Decoding alone, at three batch sizes with short and with long contexts, tells the fixed part, the part per sequence and
the part per token of context. Prefilling one sequence in one step, from a few tokens to a whole budget, cold and
behind a cached prefix, tells the matrix products and the attention.
"""

from dataclasses import dataclass

from legato.v1 import worker_pb2

_CAPACITY_SHARE = 0.75
"""Of the KV cache, what one point may fill: prefixes that were put there for it must not be evicted."""
_LONGEST = 16_384
"""Tokens; longer contexts cost minutes and tell nothing new."""
_FEW = 16
"""Tokens of the smallest prefill."""


@dataclass(frozen=True, slots=True)
class Decode:
    """A batch of sequences, each with so many tokens of context when it begins to decode."""

    num_seqs: int
    context: int

    def __str__(self) -> str:
        return f"decode {self.num_seqs} x {self.context}"


@dataclass(frozen=True, slots=True)
class Prefill:
    """One sequence of which `cached` tokens are in the prefix cache and `new` are computed in one step."""

    new: int
    cached: int

    def __str__(self) -> str:
        return f"prefill {self.new} after {self.cached}"


Point = Decode | Prefill


@dataclass(frozen=True, slots=True)
class Sample:
    """A point as it was measured, in the terms of the cost model."""

    point: Point
    num_seqs: int
    num_tokens: int
    decode_context: float
    """Tokens of context of all decoding sequences, mean over the steps."""
    prefill_pairs: float
    seconds: float
    """Of one step."""


def plan(worker: worker_pb2.WorkerDescription, num_steps: int) -> list[Point]:
    """The points for an engine of this shape, fewer where it is too small to tell them apart.

    `num_steps`: how many tokens a sequence will decode. Raises ValueError when not even one short sequence fits.
    """
    block = worker.block_size
    capacity = int(worker.num_blocks * block * _CAPACITY_SHARE)
    longest = min(worker.max_model_len, capacity, _LONGEST) - num_steps - block
    if longest < block:
        raise ValueError(f"a KV cache of {worker.num_blocks} blocks of {block} tokens is too small to calibrate on")
    decodes: dict[Decode, None] = {}
    for num_seqs in (1, max(2, worker.max_num_seqs // 4), worker.max_num_seqs):
        room = min(longest, capacity // num_seqs - num_steps - block)
        for context in (block, room):
            if num_seqs <= worker.max_num_seqs and room >= block:
                decodes[Decode(num_seqs, context // block * block + 1)] = None
    chunk = min(worker.max_num_batched_tokens, longest)
    prefills: dict[Prefill, None] = {}
    for new, before in (
        (_FEW, block),
        (chunk // 8, 0),
        (chunk // 2, 0),
        (chunk, 0),
        (chunk // 8, 1.0),
        (chunk // 2, 1.0),
    ):
        cached = before if isinstance(before, int) else longest - new
        prefills[Prefill(max(new, 1), cached // block * block)] = None
    return [*decodes, *prefills]
