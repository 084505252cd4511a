"""How long an engine step takes: measured kernel times put together, for named models on named devices.

    step = t0 + seq * sequences + linear(tokens) + head + ctx * (sum of the decoding sequences' contexts)
         + attention(prefill) + all-reduce(tokens)

`linear` interpolates the measured time of all matrix products over the tokens in the step; beyond the table it keeps
the last slope. Its points are Vidur's kernel medians; context and attention terms come from memory bandwidth and FLOP
counts. Expect 15 % on decode and 20 % on long prefill. `tiny-cpu` is no measurement: a demo-sized model on a CPU.
"""

import json
from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

_FILE = Path(__file__).with_name("profiles.json")


@dataclass(frozen=True)
class Profile:
    """One model on one device (or tensor-parallel group)."""

    layers: int
    hidden: int
    kv_tokens: int
    """Capacity of the KV cache at 90 % memory utilisation."""
    kv_bytes_per_token: int
    t0_ms: float
    """Per step: the scheduler and the launch."""
    seq_ms: float
    """Per sequence in the step: sampling and detokenizing."""
    head_ms: float
    """Per step: the output head."""
    ctx_ms_per_token: float
    """Per token of context that a decoding sequence reads."""
    attn_flops_per_pair: float
    """Per pair of a new token and a token that it attends to."""
    attn_flops_per_second: float
    allreduce: tuple[float, float] | None
    """Milliseconds per all-reduce, and per byte of it; None on one device."""
    pcie_bytes_per_second: float
    """Between the host and each device."""
    linear_ms: tuple[tuple[int, float], ...]
    """(tokens in the step, milliseconds), ascending."""
    devices: int = 1
    """Over so many the model is spread, and so is its KV."""

    @property
    def load_tokens_per_second(self) -> float:
        """How fast KV is copied from the host: each device loads its share over its own link."""
        return self.devices * self.pcie_bytes_per_second / self.kv_bytes_per_token

    @cached_property
    def _tokens(self) -> list[int]:
        return [tokens for tokens, _ in self.linear_ms]

    def linear(self, num_tokens: int) -> float:
        """Milliseconds of the matrix products for `num_tokens`."""
        table = self.linear_ms
        right = min(max(bisect_right(self._tokens, num_tokens), 1), len(table) - 1)
        (x0, y0), (x1, y1) = table[right - 1], table[right]
        return y0 + (y1 - y0) * (max(num_tokens, self._tokens[0]) - x0) / (x1 - x0)

    def step_seconds(self, num_seqs: int, num_tokens: int, decode_context: int, prefill_pairs: float) -> float:
        """Duration of one step.

        `num_tokens`: decoding sequences plus prefill tokens. `decode_context`: total context of the decoding
        sequences. `prefill_pairs`: sum over the prefilling ones of new * cached + new ** 2 / 2.
        """
        milliseconds = self.t0_ms + self.seq_ms * num_seqs + self.linear(num_tokens) + self.head_ms
        milliseconds += self.ctx_ms_per_token * decode_context
        milliseconds += 1e3 * self.attn_flops_per_pair * prefill_pairs / self.attn_flops_per_second
        if self.allreduce is not None:
            start, per_byte = self.allreduce
            milliseconds += 2 * self.layers * (start + per_byte * num_tokens * self.hidden * 2)
        return milliseconds / 1e3


def names() -> list[str]:
    """The profiles there are."""
    return sorted(json.loads(_FILE.read_text(encoding="utf-8")))


def load_profile(name: str) -> Profile:
    """The profile of that name, or the only one in the file of that path, as a calibration writes it.

    Raises KeyError for an unknown name, OSError and ValueError for a file that is not there or is none.
    """
    row = _row(name)
    row["linear_ms"] = tuple((tokens, milliseconds) for tokens, milliseconds in row["linear_ms"])
    row["allreduce"] = tuple(row["allreduce"]) if row["allreduce"] else None
    return Profile(**row)


def _row(name: str) -> dict[str, Any]:
    if not name.endswith(".json"):
        return json.loads(_FILE.read_text(encoding="utf-8"))[name]
    rows = json.loads(Path(name).read_text(encoding="utf-8"))
    if len(rows) != 1:
        raise ValueError(f"{name} holds {len(rows)} profiles instead of one")
    return next(iter(rows.values()))
