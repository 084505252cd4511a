"""Speeds: engine seconds of a token of the prompt and of one of the output, from what ended calls took.

    engine seconds = uncached prompt tokens * prefill + output tokens * step     (services/scheduler/engine_seconds.py)

Two calls that differ tell both; least squares with decay follow them when the engines' reports change them.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

from services.common.laws import Quantiles

_MOST_MODELS = 256
_DECAY = 0.98
_RIDGE = 1e-6


@dataclass(slots=True)
class _Sums:
    """Of products, decayed."""

    prompts: float = 0.0
    outputs: float = 0.0
    cross: float = 0.0
    prompt_seconds: float = 0.0
    step_seconds: float = 0.0


class Speeds:
    """By model, the newest few hundred."""

    def __init__(self) -> None:
        self._models: OrderedDict[str, _Sums] = OrderedDict()

    def add(self, model: str, uncached: float, output: float, seconds: float) -> None:
        """A call took so long."""
        sums = self._models.setdefault(model, _Sums())
        self._models.move_to_end(model)
        if len(self._models) > _MOST_MODELS:
            self._models.popitem(last=False)
        sums.prompts = sums.prompts * _DECAY + uncached * uncached
        sums.outputs = sums.outputs * _DECAY + output * output
        sums.cross = sums.cross * _DECAY + uncached * output
        sums.prompt_seconds = sums.prompt_seconds * _DECAY + uncached * seconds
        sums.step_seconds = sums.step_seconds * _DECAY + output * seconds

    def of(self, model: str) -> tuple[float, float] | None:
        """Seconds of a token of the prompt and of the output; None: no call of the model was seen."""
        sums = self._models.get(model)
        if sums is None or not sums.outputs:
            return None
        ridge = _RIDGE * sums.prompts + 1e-9
        determinant = (sums.prompts + ridge) * sums.outputs - sums.cross * sums.cross
        if determinant <= 1e-9 * sums.prompts * sums.outputs:
            return 0.0, max(0.0, sums.step_seconds / sums.outputs)
        prefill = (sums.prompt_seconds * sums.outputs - sums.step_seconds * sums.cross) / determinant
        step = ((sums.prompts + ridge) * sums.step_seconds - sums.cross * sums.prompt_seconds) / determinant
        return max(0.0, prefill), max(0.0, step)

    def service(self, model: str, uncached: float, output: Quantiles) -> Quantiles | None:
        """Engine seconds of a call with so much to prefill and that law of its output."""
        speed = self.of(model)
        if speed is None:
            return None
        prefill, step = speed
        return Quantiles([uncached * prefill + tokens * step for tokens in output.points])

    def snapshot(self) -> dict[str, Any]:
        """What was learned, as JSON takes it."""
        return {model: astuple(sums) for model, sums in self._models.items()}

    def restore(self, data: Mapping[str, Any]) -> None:
        """What `snapshot` gave."""
        self._models = OrderedDict((model, _Sums(*sums)) for model, sums in data.items())
