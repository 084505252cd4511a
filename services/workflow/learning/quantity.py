"""A quantity that is forecast: its cells, how they are heard together, and how well it went."""

from collections.abc import Sequence
from itertools import pairwise
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
_NUM_POINTS = 16
_REFRESH = 1.04
_MOST_ROLES = 1_024
_MOST_ASKED = 16
_MUCH = 2_000
_SOME = 3
_NOTHING: Floats = np.zeros(0, np.float32)
_ONES: Floats = np.ones(NUM_STRETCHES, np.float32)
_HIGHEST: Floats = _MOST_LOGIT * _ONES
_LOWEST: Floats = -_HIGHEST
"""Arrays, for numbers beside arrays take numpy twice as long."""
_CHANCES: Floats = ((np.arange(_NUM_POINTS) + 0.5) / _NUM_POINTS).astype(np.float32)


class Question(NamedTuple):
    """What a value is asked of, and what was answered."""

    kind: Key
    rows: Rows
    differences: Floats
    """(cells, stretches): logits of each cell's chances less those of the role's."""
    chances: Floats
    """Of ending in a stretch, given that it is reached."""
    left: Floats
    """The chance that it is not over when each stretch ends."""

    def of_old(self) -> "Question":
        """What it takes to count the truth in its cells; nothing is learned of whom to hear."""
        return Question(self.kind, self.rows, _NOTHING, _NOTHING, _NOTHING)

    def packed(self) -> "Question":
        """The same in half the space, to learn whom to hear."""
        half = [part.astype(np.float16) for part in (self.differences, self.chances, self.left)]
        return self._replace(differences=half[0], chances=half[1], left=half[2])


class _Role:
    """What is known of a role without anything else."""

    __slots__ = ("assumed", "enough", "holds", "law", "left", "logits", "num_seen")

    def __init__(self) -> None:
        self.law: Quantiles | None = None
        """As it was made last."""
        self.holds = 0
        """For so many questions more."""
        self.num_seen = 0.0

    def know(self, chances: Floats, num_seen: float, cell_weight: float) -> None:
        """The chances of ending in each stretch, after so many values."""
        self.left: Floats = np.multiply.accumulate(_ONES - chances)
        self.logits: Floats = np.log(chances / (_ONES - chances))
        self.assumed: Floats = cell_weight * np.concatenate((chances, _ONES - chances))
        """What each cell is taken to have seen before all that it has."""
        self.num_seen = num_seen
        self.enough = 1.0 + num_seen * _REFRESH
        """Values seen until which this holds."""


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
        chances = [prior.cdf(end - start, start) for start, end in pairwise(scale.edges.tolist())]
        self._num_heard = 0
        self._roles: dict[Key, _Role] = {}
        self._prior: Floats = np.array(chances, np.float32)
        self._reached = np.zeros(NUM_STRETCHES + 1)

    def ask(self, kinds: Sequence[Key], cells: Sequence[Key]) -> Question:
        """Of a value of these kinds, the most general first, the last its role; `cells`: of what else is known."""
        kind, num_kinds = kinds[-2] if len(kinds) > 1 else kinds[-1], len(kinds)
        rows = self._cells.rows((*kinds, *cells))
        role = self._role(kinds[-1], rows, num_kinds)
        seen = self._cells.of(rows.places[num_kinds:])
        seen += role.assumed
        differences = seen[:, :NUM_STRETCHES] / seen[:, NUM_STRETCHES:]
        np.log(differences, differences)
        differences -= role.logits
        mixed: Floats = self._weights.of(kind).dot(differences)
        mixed += role.logits
        np.maximum(mixed, _LOWEST, mixed)
        np.minimum(mixed, _HIGHEST, mixed)
        odds = np.exp(mixed, mixed)
        left = np.reciprocal(odds + _ONES)
        return Question(kind, rows, differences, odds * left, np.multiply.accumulate(left))

    def law(self, question: Question) -> Quantiles:
        """What is expected."""
        return self._made(question.left)

    def _made(self, left: Floats) -> Quantiles:
        ever = 1.0 - float(left[-1])
        reached = self._reached
        np.subtract(_ONES, left, reached[1:])
        chances = self._calibration.asked() if self._calibration else _CHANCES
        points = np.interp(chances * max(ever, _LEAST), reached, self.scale.edges)
        return Quantiles(points.tolist(), 1.0 - ever if self._never else 0.0)

    def usual(self, kinds: Sequence[Key]) -> Quantiles:
        """What is expected where nothing but the kinds is known; made anew now and then."""
        role = self._roles.get(kinds[-1])
        if role is None or role.law is None or not role.holds:
            role = self._role(kinds[-1], self._cells.rows(kinds), len(kinds))
            role.law, role.holds = self._made(role.left), min(int(role.num_seen) + 1, _MOST_ASKED)
        role.holds -= 1
        return role.law

    def _role(self, key: Key, rows: Rows, num_kinds: int) -> "_Role":
        """What the kinds say, each with the one above as its prior; made anew when more of the role were seen."""
        num_seen = self._cells.num_seen(int(rows.places[num_kinds - 1]))
        role = self._roles.get(key)
        if role is None or not 1.0 <= role.num_seen <= num_seen <= role.enough:
            chances, weight = self._prior, self._kind_weight * _ONES
            seen = self._cells.of(rows.places[:num_kinds])
            known = seen[:, :NUM_STRETCHES]
            for of_kind, reached in zip(known, known + seen[:, NUM_STRETCHES:] + weight, strict=True):
                chances = weight * chances
                chances += of_kind
                chances /= reached
            chances = np.minimum(np.maximum(chances, _LEAST), 1.0 - _LEAST)
            if role is None:
                if len(self._roles) >= _MOST_ROLES:
                    self._roles.clear()
                role = self._roles[key] = _Role()
            role.know(chances, num_seen, self._cell_weight)
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
        wrong = np.negative(question.chances)
        if place < NUM_STRETCHES:
            wrong[place] += 1.0
            wrong[place + 1 :] = 0.0
        self._weights.learn(question.kind, question.differences.dot(wrong))
        if self._calibration and place < NUM_STRETCHES:
            left = question.left
            ever = max(_LEAST, 1.0 - float(left[-1])) if self._never else 1.0
            before = 1.0 - float(left[place - 1]) if place else 0.0
            self._calibration.add(before / ever, (1.0 - float(left[place])) / ever)

    def snapshot(self, most_cells: int) -> dict[str, Any]:
        """What was learned, as JSON takes it. Laws are made anew, here as where it is restored: both go on alike."""
        self._roles.clear()
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
