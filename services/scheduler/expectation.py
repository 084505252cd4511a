"""What to expect before it is known: output lengths per kind of call, and how fast the queue drains."""

from collections import OrderedDict
from math import exp

_WEIGHT = 0.2
"""Of the newest observation in a moving average."""
_KINDS = 4096
"""Kinds of calls remembered; the one not seen longest is forgotten first."""
_WINDOW_SECONDS = 30.0
_MOST_SECONDS = 86_400.0


class OutputLengths:
    """Moving averages of output tokens per (tenant, agent), falling back to that of all calls."""

    def __init__(self, assumed_tokens: float) -> None:
        self._overall = assumed_tokens
        self._kinds: OrderedDict[tuple[str, str], float] = OrderedDict()

    def expect(self, tenant: str, agent: str, max_tokens: int) -> float:
        """Tokens that such a call will generate; `max_tokens` 0 is no bound."""
        expected = self._kinds.get((tenant, agent), self._overall)
        return min(expected, max_tokens) if max_tokens else expected

    def learn(self, tenant: str, agent: str, tokens: int) -> None:
        """A call of that kind generated so many."""
        self._overall += _WEIGHT * (tokens - self._overall)
        kind = (tenant, agent)
        known = self._kinds.get(kind, float(tokens))
        self._kinds[kind] = known + _WEIGHT * (tokens - known)
        self._kinds.move_to_end(kind)
        if len(self._kinds) > _KINDS:
            self._kinds.popitem(last=False)


class DrainRate:
    """How many calls leave the queue per second, over about the last half minute."""

    def __init__(self) -> None:
        self._count = 0.0
        self._at = 0.0

    def count(self, now: float) -> None:
        """One left."""
        self._count = self._decayed(now) + 1
        self._at = now

    def retry_after_seconds(self, num_queued: int, now: float) -> float:
        """When a tenth of the queue will have left: between 1 and 60 seconds."""
        per_second = self._decayed(now) / _WINDOW_SECONDS
        return min(60.0, max(1.0, num_queued / 10 / per_second)) if per_second > 0 else 60.0

    def drain_seconds(self, num_queued: int, now: float) -> float:
        """In which so many leave at that pace; 0 while none has left."""
        per_second = self._decayed(now) / _WINDOW_SECONDS
        return min(_MOST_SECONDS, num_queued / per_second) if per_second > 0 else 0.0

    def _decayed(self, now: float) -> float:
        return self._count * exp((self._at - now) / _WINDOW_SECONDS)
