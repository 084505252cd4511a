"""What the engine counts as it goes, for its load reports."""

from dataclasses import dataclass

from services.worker.simulated.stride import Stride

_SMOOTHING = 0.1


@dataclass(slots=True)
class Meter:
    """Totals since the start, and moving averages of how fast steps are. See `Counters`."""

    num_preemptions: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    num_steps: int = 0
    step_seconds: float = 0.0
    prefill_tokens_per_second: float = 0.0

    def begin(self, stride: Stride, steps: int, prefill_tokens: int, after: int = 0) -> None:
        """So many steps of a stride begin, `after` so many of it; each prefills so many tokens."""
        self.num_steps += steps
        if not prefill_tokens:
            self.step_seconds = _smoothed(self.step_seconds, stride.duration(after), stride.growth, steps)
            return
        for step in range(after, after + steps):
            speed = prefill_tokens / stride.duration(step)
            self.prefill_tokens_per_second = _smoothed(self.prefill_tokens_per_second, speed, 0.0, 1)


def _smoothed(average: float, first: float, growth: float, count: int) -> float:
    """A moving average after `count` more values, the first of which is given and each next one larger by `growth`.

    It approaches a line that runs behind the values by `growth / _SMOOTHING`, the distance shrinking geometrically.
    """
    if average == 0:
        average, first, count = first, first + growth, count - 1
    behind = growth / _SMOOTHING
    return first + growth * count - behind + (1 - _SMOOTHING) ** count * (average - first + behind)
