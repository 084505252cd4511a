"""Engine seconds: what a call takes on an engine that it has for itself, the unit of all service here.

    seconds = (prompt - cached) / prefill speed + output * step

An engine runs many calls at once, so the time that a call spent there says as much about its neighbours as about it.
Engine seconds say what the call itself is, and are comparable between calls, workers and hours: the speeds are those of
an undisturbed engine of the call's model, the fastest that any of its workers has reported (reports are averages over
busy time). Before the first report they are the assumed ones. Ratios matter, not the unit.
"""

from services.scheduler.events import LoadReported
from services.scheduler.limits import Limits


class Speed:
    """Of an undisturbed engine of one model."""

    __slots__ = ("prefill_seconds", "step_seconds")

    def __init__(self, prefill_seconds: float, step_seconds: float) -> None:
        self.prefill_seconds = prefill_seconds
        """For a token of the prompt."""
        self.step_seconds = step_seconds

    def seconds(self, prefilled_tokens: float, output_tokens: float) -> float:
        """Of a call that prefills and generates so much."""
        return prefilled_tokens * self.prefill_seconds + output_tokens * self.step_seconds


class EngineSeconds:
    """Speeds by model; as many as there are models."""

    def __init__(self, limits: Limits) -> None:
        self._assumed = (1.0 / limits.assumed_prefill_tokens_per_second, limits.assumed_step_seconds)
        self._seen: dict[str, tuple[float, float]] = {}
        self._speeds: dict[str, Speed] = {}

    def of(self, model: str) -> Speed:
        """The model's speed now; the same object changes as reports come."""
        speed = self._speeds.get(model)
        if speed is None:
            speed = self._speeds[model] = Speed(*self._assumed)
        return speed

    def report(self, model: str, load: LoadReported) -> None:
        """What one of the model's workers measured."""
        speed = self.of(model)
        step, prefill = self._seen.get(model, (0.0, 0.0))
        if load.step_seconds > 0 and (not step or load.step_seconds < step):
            step = speed.step_seconds = load.step_seconds
        if load.prefill_tokens_per_second > prefill:
            prefill = load.prefill_tokens_per_second
            speed.prefill_seconds = 1.0 / prefill
        self._seen[model] = (step, prefill)
