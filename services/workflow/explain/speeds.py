"""Speeds: engine seconds of a token of a prompt, per model, learned from the calls of the log.

The log has the sum of both halves, engine_seconds = uncached prompt * prefill + output * step, so a few calls tell them
apart (least squares without a constant, the last ten or so: what the scheduler takes for the speeds changes). While all
calls are alike, that says nothing: then it is what prefills took beside others, which is more.
"""

from collections import OrderedDict

_MODELS = 64
_DECAY = 0.9
_APART = 1e-6
"""Of the determinant, against what it would be if the halves had nothing to do with each other."""


class _Sums:
    __slots__ = ("oo", "oy", "prefill_seconds", "prefilled", "uo", "uu", "uy")

    def __init__(self) -> None:
        self.uu = self.uo = self.oo = self.uy = self.oy = 0.0
        self.prefilled = self.prefill_seconds = 0.0

    def add(self, uncached: int, output: int, seconds: float, prefill_seconds: float) -> None:
        self.uu = _DECAY * self.uu + uncached * uncached
        self.uo = _DECAY * self.uo + uncached * output
        self.oo = _DECAY * self.oo + output * output
        self.uy = _DECAY * self.uy + uncached * seconds
        self.oy = _DECAY * self.oy + output * seconds
        self.prefilled = _DECAY * self.prefilled + uncached
        self.prefill_seconds = _DECAY * self.prefill_seconds + prefill_seconds

    def token_seconds(self) -> float:
        determinant = self.uu * self.oo - self.uo * self.uo
        if determinant > _APART * self.uu * self.oo:
            seconds = (self.uy * self.oo - self.oy * self.uo) / determinant
            if seconds > 0:
                return seconds
        return self.prefill_seconds / self.prefilled if self.prefilled else 0.0


class Speeds:
    """Of the models whose calls ended last."""

    def __init__(self) -> None:
        self._sums: OrderedDict[str, _Sums] = OrderedDict()

    def add(self, model: str, uncached: int, output: int, seconds: float, prefill_seconds: float) -> None:
        """A call completed."""
        sums = self._sums.get(model)
        if sums is None:
            sums = self._sums[model] = _Sums()
            if len(self._sums) > _MODELS:
                self._sums.popitem(last=False)
        sums.add(uncached, output, seconds, prefill_seconds)

    def token_seconds(self, model: str) -> float:
        """To prefill one token; 0: not known."""
        sums = self._sums.get(model)
        return 0.0 if sums is None else sums.token_seconds()
