"""Scores: coverage and pinball loss of laws, beside those of one law for all, that of the values seen before."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, log
from typing import Any

import numpy as np

from bench.forecast.truth import Outcome
from services.common.laws import Quantiles

_CHANCES = tuple(place / 10 for place in range(1, 10))
_LOW, _HIGH = 0.1, 0.9


@dataclass(slots=True)
class Score:
    """Of one quantity in one run. Values that never came count in `never` only; of a law that knows of never, what it
    says given that it comes is looked at."""

    grid: float
    past: list[float] = field(default_factory=list[float])
    within: list[float] = field(default_factory=list[float])
    losses: list[float] = field(default_factory=list[float])
    log_losses: list[float] = field(default_factory=list[float])
    values: list[float] = field(default_factory=list[float])
    errors: list[float] = field(default_factory=list[float])
    nevers: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    """Chance said, and whether."""

    def train(self, outcome: Outcome) -> None:
        if outcome.value < inf:
            self.past.append(outcome.value)

    def test(self, outcome: Outcome, rng: random.Random) -> None:
        value, law = outcome.value, outcome.law
        self.nevers.append((law.never, float(value == inf)))
        if value == inf:
            return
        if law.never:
            law = Quantiles(law.points)
        low, high = (law.cdf(max(0.0, value + side * self.grid)) for side in (-0.5, 0.5))
        self.within.append(float(_LOW <= rng.uniform(low, high) <= _HIGH))
        said = [law.quantile(chance) for chance in _CHANCES]
        self.values.append(value)
        self.losses.append(_pinball(said, value))
        self.log_losses.append(_pinball([log(self.grid + each) for each in said], log(self.grid + value)))
        self.errors.append(abs(said[4] - value))

    def result(self) -> dict[str, Any]:
        if not self.values or not self.past:
            return {}
        said: list[float] = np.quantile(self.past, _CHANCES).tolist()
        every = float(np.mean([_pinball(said, value) for value in self.values]))
        logs = [log(self.grid + each) for each in said]
        every_log = float(np.mean([_pinball(logs, log(self.grid + value)) for value in self.values]))
        loss, log_loss = float(np.mean(self.losses)), float(np.mean(self.log_losses))
        expected, happened = (float(np.mean(column)) for column in zip(*self.nevers, strict=True))
        return {
            "values": len(self.values),
            "coverage": float(np.mean(self.within)),
            "pinball": loss,
            "pinball_of_one_law": every,
            "lower": 1.0 - loss / every,
            "lower_log": 1.0 - log_loss / every_log,
            "median_error": float(np.median(self.errors)),
            "median_error_of_one_law": float(np.median([abs(said[4] - value) for value in self.values])),
            "never_said": expected,
            "never_happened": happened,
        }


def _pinball(said: Sequence[float], value: float) -> float:
    """Mean over the chances, of the loss that a quantile of that chance has least of all."""
    return sum(
        (value - quantile) * (chance if value >= quantile else chance - 1.0)
        for chance, quantile in zip(_CHANCES, said, strict=True)
    ) / len(_CHANCES)
