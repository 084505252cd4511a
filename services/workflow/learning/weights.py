"""Weights with which cells are heard, learned from how right they were: gradient steps on the log loss, per kind."""

from collections import OrderedDict
from typing import Any

import numpy as np

from services.common.laws import Key
from services.workflow.learning.scale import Floats

_STEP = 0.05
_FORGET = 0.9995
_MOST = 2.0
_MOST_KINDS = 512
_OWN = 30
"""Values of a kind after which its own weights are used; until then those of all."""
_SOME = 4
"""Of a kind that has its own weights, each so manieth value teaches those of all."""
_ALL: Key = ()


class _Of:
    __slots__ = ("num_seen", "squares", "weights")

    def __init__(self, weights: Floats, squares: Floats, num_seen: int = 0) -> None:
        self.weights = weights
        self.squares = squares
        """Of past gradients, summed: each weight has a step of its own (AdaGrad)."""
        self.num_seen = num_seen


class Weights:
    """Of `num` sources, `first` each at the beginning."""

    def __init__(self, num: int, first: float) -> None:
        self._least, self._most = np.zeros(num, np.float32), np.full(num, _MOST, np.float32)
        self._kept, self._rate = np.full(num, _FORGET, np.float32), np.full(num, _STEP, np.float32)
        self._kinds: OrderedDict[Key, _Of] = OrderedDict()
        self._kinds[_ALL] = _Of(np.full(num, first, np.float32), np.ones(num, np.float32))

    def of(self, kind: Key) -> Floats:
        own = self._kinds.get(kind)
        return (own if own is not None and own.num_seen >= _OWN else self._kinds[_ALL]).weights

    def num_seen(self, kind: Key) -> int:
        """Values of that kind that were learned from."""
        own = self._kinds.get(kind)
        return 0 if own is None else own.num_seen

    def learn(self, kind: Key, gradient: Floats) -> None:
        """Of the log likelihood of a value of that kind."""
        own = self._kinds.get(kind)
        if own is None:
            every = self._kinds[_ALL]
            own = self._kinds[kind] = _Of(every.weights.copy(), every.squares * 0.1 + 1.0)
            if len(self._kinds) > _MOST_KINDS:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(kind)
        self._step(own, gradient)
        if kind != _ALL and (own.num_seen <= _OWN or not own.num_seen % _SOME):
            self._kinds.move_to_end(_ALL)
            self._step(self._kinds[_ALL], gradient)

    def _step(self, of: _Of, gradient: Floats) -> None:
        of.num_seen += 1
        of.squares *= self._kept
        of.squares += gradient * gradient
        of.weights += self._rate * gradient / np.sqrt(of.squares)
        np.maximum(of.weights, self._least, of.weights)
        np.minimum(of.weights, self._most, of.weights)

    def snapshot(self) -> list[Any]:
        return [[list(key), of.weights.tolist(), of.squares.tolist(), of.num_seen] for key, of in self._kinds.items()]

    def restore(self, data: list[Any]) -> None:
        """What `snapshot` gave, if it is of as many sources."""
        num = len(self._kinds[_ALL].weights)
        for key, weights, squares, num_seen in data:
            if len(weights) == num:
                of = _Of(np.array(weights, np.float32), np.array(squares, np.float32), num_seen)
                self._kinds[tuple(key)] = of
