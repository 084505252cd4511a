"""When a waiting call may take the place of running ones, and how a call that runs long loses its priority.

Plain values, for they travel between processes. vLLM does so with vllm_engine/scheduler.py, the simulated engine with
simulated/batch.py.
"""

from dataclasses import dataclass

from services.common.urgency import level


@dataclass(frozen=True, slots=True)
class Preemption:
    """A waiting call that finds no room preempts running ones that are less urgent, the least urgent first."""

    margin: int = 1
    """By how much their priority must be worse, at least 1."""
    min_tokens: int = 32
    """A call generates so many tokens each time it runs before it may be preempted for another, at least 1."""
    quanta: tuple[int, ...] = ()
    """A call of level i falls to i + 1 when it has generated `quanta[i]` tokens there; none: it stays."""

    def quantum(self, priority: int) -> int | None:
        """Tokens that a call of that engine priority may generate; None: as many as it likes."""
        its_level = level(priority)
        return self.quanta[its_level] if its_level < len(self.quanta) else None
