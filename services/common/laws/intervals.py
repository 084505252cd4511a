"""Laws learned by kind: of each, a hazard from what was seen of it, with the law of the kind above as its prior.

So who is new is believed to be as all are, and what is seen takes over stretch by stretch. Deterministic and bounded.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import inf

from services.common.laws.hazard import EDGES, Exposure, Hazard, learned_hazard, middle
from services.common.laws.smooth import Lomax

_REFRESH = 1.1
"""A law is made anew when what was seen has grown by a tenth."""

Key = tuple[str | int, ...]


class _Kind:
    """Those that are expected to do alike."""

    __slots__ = ("away", "due", "law", "num_seen", "seen")

    def __init__(self) -> None:
        self.seen = Exposure()
        self.num_seen = 0.0
        self.away: dict[str, float] = {}
        """Since when, by name."""
        self.law: Hazard | None = None
        self.due = 0.0


class Intervals:
    """Laws of one sort of interval, in seconds or whatever else is counted from 0 up. At most `most_kinds` kinds are
    told apart (those not seen longest are forgotten), of a kind at most `most_away` open intervals count, and when
    `most_seen` of a kind were seen, all that was seen of it counts half from then on. `learn` makes a law of what was
    seen and of the rates above, which weigh `prior_weight`."""

    def __init__(
        self,
        prior: Lomax,
        most_kinds: int,
        most_away: int,
        prior_weight: float,
        most_seen: float = inf,
        learn: Callable[[Exposure, Callable[[int], float], float], Hazard] = learned_hazard,
    ) -> None:
        places = range(len(EDGES))
        self._prior = Hazard([prior.shape / (prior.scale + middle(place)) for place in places])
        self._most_kinds = most_kinds
        self._most_away = most_away
        self._prior_weight = prior_weight
        self._learn = learn
        self._most_seen = most_seen
        self._kinds: OrderedDict[Key, _Kind] = OrderedDict()

    def law(self, keys: Sequence[Key], now: float = 0.0) -> Hazard:
        """Of an interval of that kind. `keys`, the most general first: each is the prior of the next."""
        law = self._prior
        for key in keys:
            law = self._law(self._kind(key), law, now)
        return law

    def open(self, keys: Sequence[Key], name: str, now: float) -> Hazard:
        """The interval `name` begins; how long it will be. While it is open, it counts as one that lasts."""
        law = self._prior
        for key in keys:
            kind = self._kind(key)
            law = self._law(kind, law, now)
            if len(kind.away) < self._most_away or name in kind.away:
                kind.away[name] = now
        return law

    def close(self, keys: Sequence[Key], name: str, seconds: float, *, happened: bool) -> None:
        """It ended, with what was waited for or without."""
        for kind in map(self._kind, keys):
            kind.away.pop(name, None)
            self._add(kind, seconds, 0.0, happened)

    def passed(self, keys: Sequence[Key], since: float, until: float, *, happened: bool) -> None:
        """An interval that is told in parts went on from `since` to `until`, and ended there if it `happened`."""
        for kind in map(self._kind, keys):
            self._add(kind, until, since, happened)

    def _add(self, kind: _Kind, seconds: float, since: float, happened: bool) -> None:
        kind.seen.add(max(since, seconds), happened=happened, since=since)
        kind.num_seen += 1
        if kind.num_seen >= self._most_seen:
            kind.num_seen /= 2
            kind.due /= 2
            kind.seen.halve()

    def _law(self, kind: _Kind, prior: Hazard, now: float) -> Hazard:
        if kind.law is None or kind.num_seen + len(kind.away) >= kind.due:
            seen = kind.seen.copy()
            for since in kind.away.values():
                seen.add(max(0.0, now - since), happened=False)
            kind.law = self._learn(seen, prior.rate_of, self._prior_weight)
            kind.due = (kind.num_seen + len(kind.away)) * _REFRESH + 1
        return kind.law

    def _kind(self, key: Key) -> _Kind:
        kind = self._kinds.get(key)
        if kind is None:
            kind = self._kinds[key] = _Kind()
            if len(self._kinds) > self._most_kinds:
                self._kinds.popitem(last=False)
        self._kinds.move_to_end(key)
        return kind
