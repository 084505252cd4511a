"""The cost model's terms from measured steps: non-negative least squares over relative errors.

What does not grow with anything (launch, reading the weights, the output head) cannot be told apart from outside: all
of it is in `t0_ms`, and `head_ms` is 0. The matrix products rise along a line through knots, never fall.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from services.worker.calibrate.facts import Facts
from services.worker.calibrate.points import Decode, Sample
from services.worker.simulated.cost import Profile

Array = NDArray[np.float64]

_NO_GAIN = 1e-10


def fit(samples: Sequence[Sample], facts: Facts) -> Profile:
    """The profile that comes nearest to the samples, each sample's error taken relative to its time."""
    knots = _knots(samples)
    rows = np.array([_row(sample, knots) for sample in samples])
    seconds = np.array([sample.seconds for sample in samples])
    step, sequence, context, pair, *slopes = map(float, _non_negative(rows / seconds[:, None], np.ones(len(rows))))
    linear = {1: slopes[0]}
    total = 0.0
    for (low, high), slope in zip(pairwise((0, *knots)), slopes, strict=True):
        total += slope * (high - low)
        linear[high] = total
    return Profile(
        layers=facts.layers,
        hidden=facts.hidden,
        kv_tokens=facts.kv_tokens,
        kv_bytes_per_token=facts.kv_bytes_per_token,
        t0_ms=1e3 * step,
        seq_ms=1e3 * sequence,
        head_ms=0.0,
        ctx_ms_per_token=1e3 * context,
        attn_flops_per_pair=facts.flops_per_pair if pair else 0.0,
        attn_flops_per_second=facts.flops_per_pair / pair if pair else 1.0,
        allreduce=None,
        pcie_bytes_per_second=facts.copy_bytes_per_second,
        linear_ms=tuple((tokens, 1e3 * seconds) for tokens, seconds in linear.items()),
    )


def predicted(profile: Profile, sample: Sample) -> float:
    """Seconds of the sample's step by the profile."""
    context = round(sample.decode_context)
    return profile.step_seconds(sample.num_seqs, sample.num_tokens, context, sample.prefill_pairs)


def _knots(samples: Sequence[Sample]) -> list[int]:
    """Where the slope may change: at the largest batch that decodes, and at the sizes of cold chunks above it."""
    batch = max(sample.num_tokens for sample in samples if isinstance(sample.point, Decode))
    return sorted({batch, *(sample.num_tokens for sample in samples if sample.num_tokens > 2 * batch)})


def _row(sample: Sample, knots: Sequence[int]) -> list[float]:
    """What the cost model multiplies its terms with: the fixed four, then the tokens between one knot and the next."""
    parts = [max(min(sample.num_tokens, high) - low, 0.0) for low, high in pairwise((0, *knots))]
    parts[-1] += max(sample.num_tokens - knots[-1], 0)
    return [1.0, sample.num_seqs, sample.decode_context, sample.prefill_pairs, *parts]


def _non_negative(rows: Array, wanted: Array) -> Array:
    """The x >= 0 of least |rows @ x - wanted| (Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23)."""
    norms: Array = np.linalg.norm(rows, axis=0)
    scale: Array = np.where(norms == 0, 1.0, norms)
    rows = rows / scale  # columns differ by ten orders of magnitude
    size = rows.shape[1]
    x = np.zeros(size, dtype=np.float64)
    free: list[int] = []
    for _ in range(10 * size):
        gain = _product(rows.T, wanted - _product(rows, x))
        gain[free] = -np.inf
        steepest = int(gain.argmax())
        if gain[steepest] < _NO_GAIN:
            break
        free.append(steepest)
        while True:
            best = _unbounded(rows, wanted, free)
            falling = [index for index in free if best[index] <= 0]
            if not falling:
                break
            reach = min(float(x[index] / max(x[index] - best[index], _NO_GAIN)) for index in falling)
            x = np.asarray(x + reach * (best - x), dtype=np.float64)
            free = [index for index in free if x[index] > _NO_GAIN]
            x[[index for index in range(size) if index not in free]] = 0.0
        x = best
    return x / scale


def _unbounded(rows: Array, wanted: Array, free: list[int]) -> Array:
    """The x of least squares whose entries are 0 but for the free ones."""
    x = np.zeros(rows.shape[1], dtype=np.float64)
    x[free] = np.linalg.lstsq(rows[:, free], wanted, rcond=None)[0]
    return x


def _product(matrix: Array, vector: Array) -> Array:
    return np.asarray(matrix @ vector, dtype=np.float64)
