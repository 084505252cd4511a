"""A quantity that is forecast: its cells, how they are heard together, and how well it went."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from services.common.laws import Key, Lomax, Quantiles
from services.workflow.learning.calibration import Calibration
from services.workflow.learning.cells import Cells, Rows
from services.workflow.learning.scale import NUM_STRETCHES, Floats, Scale
from services.workflow.learning.weights import Weights

_LEAST = 1e-5
_MOST_LOGIT = 14.0
_FIRST = 2.0
"""Sum of the cells' weights at first: they are shrunk, and each knows something else."""
_NUM_POINTS = 24
_REFRESH = 1.04
_MOST_ROLES = 1_024
_MOST_ASKED = 16
_MUCH = 2_000
_SOME = 3
_NOTHING: Floats = np.zeros(0, np.float32)
_CHANCES: Floats = ((np.arange(_NUM_POINTS) + 0.5) / _NUM_POINTS).astype(np.float32)


class Question(NamedTuple):
    """What a value is asked of, and what was answered."""

    kind: Key
    rows: Rows
    differences: Floats
    """(cells, stretches): logits of each cell's chances less those of the role's."""
    chances: Floats
    """Of ending in a stretch, given that it is reached."""

    def of_old(self) -> "Question":
        """What it takes to count the truth in its cells; nothing is learned of whom to hear."""
        return self._replace(differences=_NOTHING, chances=_NOTHING)

    def packed(self) -> "Question":
        """The same in half the space."""
        return self._replace(differences=self.differences.astype(np.float16), chances=self.chances.astype(np.float16))


class _Role:
    """What is known of a role without anything else."""

    __slots__ = ("chances", "enough", "law", "logits", "num_asked", "num_seen")

    def __init__(self, chances: Floats, logits: Floats, num_seen: float) -> None:
        self.chances = chances
        self.logits = logits
        self.num_seen = num_seen
        self.enough = num_seen * _REFRESH
        """Values seen until which it holds."""
        self.law: Quantiles | None = None
        self.num_asked = 0


class Quantity:
    """`never`: a value may never come, else it comes before the last stretch ends. `num_cells`: how many things known
    tell values of one role apart; each question names as many."""

    def __init__(
        self,
        scale: Scale,
        prior: Lomax,
        num_cells: int,
        most_cells: int,
        most_seen: float,
        *,
        kind_weight: float,
        cell_weight: float,
        never: bool = False,
        calibrated: bool = True,
    ) -> None:
        self.scale = scale
        self._never = never
        self._kind_weight = kind_weight
        self._cell_weight = cell_weight
        self._cells = Cells(most_cells, most_seen)
        self._weights = Weights(num_cells, _FIRST / num_cells)
        self._calibration = Calibration(_CHANCES) if calibrated else None
        chances = [
            prior.cdf(float(end) - float(start), float(start))
            for start, end in zip(scale.starts, scale.ends, strict=True)
        ]
        self._num_heard = 0
        self._roles: dict[Key, _Role] = {}
        self._prior: Floats = np.array(chances, np.float32)

    def ask(self, kinds: Sequence[Key], cells: Sequence[Key]) -> Question:
        """Of a value of these kinds, the most general first, the last its role; `cells`: of what else is known."""
        kind, num_kinds, weight = kinds[-2] if len(kinds) > 1 else kinds[-1], len(kinds), self._cell_weight
        rows = self._cells.rows((*kinds, *cells))
        role = self._role(kinds[-1], rows, num_kinds)
        seen = self._cells.of(rows.places[num_kinds:])
        ended = seen[:, 0]
        lived = np.maximum(seen[:, 1] - ended, 0.0)  # halves may differ in their last digit
        differences = np.log((ended + weight * role.chances) / (lived + weight * (1.0 - role.chances))) - role.logits
        mixed = role.logits + self._weights.of(kind) @ differences
        chances = 1.0 / (1.0 + np.exp(-np.minimum(np.maximum(mixed, -_MOST_LOGIT), _MOST_LOGIT)))
        return Question(kind, rows, differences, np.asarray(chances, np.float32))

    def law(self, question: Question) -> Quantiles:
        """What is expected."""
        return self._made(question.chances)

    def _made(self, conditional: Floats) -> Quantiles:
        below = 1.0 - np.cumprod(1.0 - conditional)
        ever = float(below[-1])
        reached = np.concatenate(([0.0], below / max(ever, _LEAST)))
        chances = self._calibration.asked() if self._calibration else _CHANCES
        places = np.minimum(np.searchsorted(reached, chances) - 1, NUM_STRETCHES - 1)
        low, high = reached[places], reached[places + 1]
        share = (chances - low) / np.maximum(high - low, 1e-9)
        starts, ends = self.scale.starts[places], self.scale.ends[places]
        points = starts + np.minimum(share, 1.0) * (ends - starts)
        return Quantiles(points.tolist(), 1.0 - ever if self._never else 0.0)

    def usual(self, kinds: Sequence[Key]) -> Quantiles:
        """What is expected where nothing but the kinds is known; made anew now and then."""
        role = self._roles.get(kinds[-1])
        if role is None or role.law is None or role.num_asked >= _MOST_ASKED:
            role = self._role(kinds[-1], self._cells.rows(kinds), len(kinds))
            role.law, role.num_asked = self._made(role.chances), 0
        role.num_asked += 1
        return role.law

    def _role(self, key: Key, rows: Rows, num_kinds: int) -> "_Role":
        """What the kinds say, each with the one above as its prior; made anew when more of the role were seen."""
        num_seen = self._cells.num_seen(int(rows.places[num_kinds - 1]))
        role = self._roles.get(key)
        if role is None or not 1.0 <= role.num_seen <= num_seen <= role.enough:
            chances, weight = self._prior, self._kind_weight
            for ended, reached in self._cells.of(rows.places[:num_kinds]):
                chances = (ended + weight * chances) / (reached + weight)
            chances = np.minimum(np.maximum(chances, _LEAST), 1.0 - _LEAST)
            if len(self._roles) >= _MOST_ROLES:
                self._roles.clear()
            role = self._roles[key] = _Role(chances, np.log(chances / (1.0 - chances)), num_seen)
        return role

    def lived(self, question: Question, start: int, end: int) -> None:
        """A value that has not come yet has passed these stretches."""
        if end > start:
            self._cells.passed(question.rows, start, end)

    def learn(self, question: Question, value: float | None, start: int = 0) -> None:
        """The truth; None: never. `start`: what is before it, the value was told to have passed."""
        place = self.scale.place(value) if value is not None else NUM_STRETCHES
        if len(question.chances):
            self._hear(question, place)
        if place < NUM_STRETCHES:
            self._cells.ended(question.rows, start, place)
        else:
            self._cells.passed(question.rows, start, NUM_STRETCHES)

    def _hear(self, question: Question, place: int) -> None:
        """Who was right. Once much has been heard of a kind, some values are enough."""
        self._num_heard += 1
        if self._weights.num_seen(question.kind) > _MUCH and self._num_heard % _SOME:
            return
        end = min(place + 1, NUM_STRETCHES)
        wrong = -question.chances[:end]
        if place < NUM_STRETCHES:
            wrong[place] += 1.0
        self._weights.learn(question.kind, question.differences[:, :end] @ wrong)
        if self._calibration and place < NUM_STRETCHES:
            below = 1.0 - np.cumprod(1.0 - question.chances[:end])
            ever = max(_LEAST, float(1.0 - np.prod(1.0 - question.chances))) if self._never else 1.0
            before = float(below[place - 1]) if place else 0.0
            self._calibration.add(before / ever, float(below[place]) / ever)

    def snapshot(self, most_cells: int) -> dict[str, Any]:
        """What was learned, as JSON takes it."""
        return {
            "cells": self._cells.snapshot(most_cells),
            "weights": self._weights.snapshot(),
            "calibration": self._calibration.snapshot() if self._calibration else [],
        }

    def restore(self, data: dict[str, Any]) -> None:
        """What `snapshot` gave."""
        self._cells.restore(data["cells"])
        self._roles.clear()
        self._weights.restore(data["weights"])
        if self._calibration:
            self._calibration.restore(data["calibration"])

    def check(self) -> None:
        """Raise AssertionError if a table is not what it says."""
        self._cells.check()
