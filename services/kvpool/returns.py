"""When threads of programs come back: laws of the time to a thread's next call, from the end of its last running call
(`returns`) and, while one runs, from when that began (`turns`).

Nobody is asked: what is believed of a thread is what threads of its tenant and agent did before, as far as these are
many; then what all did; and a heavy tail to begin with. Threads that are still away count too, for as long as they have
been; so a law knows how often nothing comes any more without being told of an end. When it is told, waiting stops to
count: the laws of programs that say when they end are laws of programs that live.
"""

from collections import OrderedDict
from collections.abc import Sequence
from math import log2

from services.common.laws import Exposure, Hazard, learned_hazard, middle
from services.kvpool.segment import Program, Thread

_PRIOR = Hazard([1.0 / (10.0 + middle(place)) for place in range(len(Exposure().events))])
"""Lomax, shape 1 and scale 10 s: half of them within 10 s, then ever more slowly, near what agents' tools do
(algorithms.md 4.5)."""
_REFRESH = 1.1
"""A law is made anew when what was seen has grown by a tenth."""


Key = tuple[str | int, ...]


class _Kind:
    """Threads that are expected to do alike."""

    __slots__ = ("away", "due", "law", "num_seen", "seen")

    def __init__(self) -> None:
        self.seen = Exposure()
        self.num_seen = 0
        self.away: dict[str, float] = {}
        """Since when, by thread_id."""
        self.law: Hazard | None = None
        self.due = 0.0


class Intervals:
    """Laws of one sort of interval. Deterministic and bounded: at most `most_kinds` kinds are told apart (those not
    seen longest are forgotten), and of a kind at most `most_away` open intervals count."""

    def __init__(self, most_kinds: int, most_away: int, prior_events: float) -> None:
        self._most_kinds = most_kinds
        self._most_away = most_away
        self._prior_events = prior_events
        self._kinds: OrderedDict[Key, _Kind] = OrderedDict()

    def open(self, keys: Sequence[Key], name: str, now: float) -> Hazard:
        """The interval `name` begins; how long it will be. `keys` tell its kind, the most general first: each is the
        prior of the next."""
        law = _PRIOR
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
            kind.seen.add(max(0.0, seconds), happened=happened)
            kind.num_seen += 1

    def _law(self, kind: _Kind, prior: Hazard, now: float) -> Hazard:
        if kind.law is None or kind.num_seen + len(kind.away) >= kind.due:
            seen = kind.seen.copy()
            for since in kind.away.values():
                seen.add(max(0.0, now - since), happened=False)
            kind.law = learned_hazard(seen, lambda place: prior.rate(middle(place)), self._prior_events)
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


class Returns:
    """Keeps the laws of threads: `thread.returns` and `thread.turns`, and `thread.pace` by which it tells the fast from
    the slow. It must be told of every call while the thread is still as it was before it."""

    def __init__(self, *, most_kinds: int = 1000, most_away: int = 256, prior_events: float = 0.3) -> None:
        self._returns = Intervals(most_kinds, most_away, prior_events)
        self._turns = Intervals(most_kinds, most_away, prior_events)
        self._absences = Intervals(most_kinds, most_away, prior_events)
        """Of whole programs: the same gaps would count twice among those of threads."""

    def began(self, thread: Thread, agent: str, now: float) -> None:
        """A call of the thread, by `agent`, begins."""
        if thread.num_calls:
            self._close(thread, now, happened=True)
            thread.pace = int(log2(max(0.0, now - thread.began) + 1.0))
        thread.turns = self._turns.open(_keys(thread.program, agent, thread.pace), thread.thread_id, now)

    def finished(self, thread: Thread, now: float) -> None:
        """Its last running call ended."""
        thread.returns = self._returns.open(_keys(thread.program, thread.agent, thread.pace), thread.thread_id, now)

    def ended(self, thread: Thread, now: float) -> None:
        """It will not come back, and that is known now."""
        if thread.num_calls:
            self._close(thread, now, happened=False)

    def observe(self, program: Program, gap_seconds: float) -> None:
        """A program came back after so long: for whoever tells no threads apart."""
        self._absences.close(_keys(program, program.agent, None), program.program_id, gap_seconds, happened=True)

    def law(self, program: Program) -> Hazard:
        """Of the time from its `idle_since`, which is now, to its next call."""
        return self._absences.open(_keys(program, program.agent, None), program.program_id, program.idle_since)

    def gone(self, program: Program, now: float) -> None:
        """The program will not come back, and that is known now."""
        if program.num_calls and not program.num_running:
            keys = _keys(program, program.agent, None)
            self._absences.close(keys, program.program_id, now - program.idle_since, happened=False)

    def _close(self, thread: Thread, now: float, *, happened: bool) -> None:
        keys = _keys(thread.program, thread.agent, thread.pace)
        self._turns.close(keys, thread.thread_id, now - thread.began, happened=happened)
        if not thread.num_running:
            self._returns.close(keys, thread.thread_id, now - thread.idle_since, happened=happened)


def _keys(program: Program, agent: str, pace: int | None) -> list[Key]:
    """All, those of the tenant's agent, and of these those whose last turn was as long: up to 1 s, 3 s, 7 s, ..."""
    kind = (program.tenant, agent)
    return [(), kind] if pace is None else [(), kind, (*kind, pace)]
