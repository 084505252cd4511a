"""When threads of programs come back: laws of the time to a thread's next call, from the end of its last running call
(`returns`) and, while one runs, from when that began (`turns`).

Nobody is asked: what is believed of a thread is what threads of its tenant and agent did before, as far as these are
many; then what all did; and a heavy tail to begin with. Threads that are still away count too, for as long as they have
been; so a law knows how often nothing comes any more without being told of an end. When it is told, waiting stops to
count: the laws of programs that say when they end are laws of programs that live.
"""

from math import log2

from services.common.laws import Hazard, Intervals, Key, Lomax
from services.kvpool.segment import Program, Thread

_PRIOR = Lomax(1.0, 10.0)
"""Half of them within 10 s, then ever more slowly, near what agents' tools do (algorithms.md 4.5)."""


class Returns:
    """Keeps the laws of threads: `thread.returns` and `thread.turns`, and `thread.pace` by which it tells the fast from
    the slow. It must be told of every call while the thread is still as it was before it."""

    def __init__(self, *, most_kinds: int = 1000, most_away: int = 256, prior_events: float = 0.3) -> None:
        self._returns = Intervals(_PRIOR, most_kinds, most_away, prior_events)
        self._turns = Intervals(_PRIOR, most_kinds, most_away, prior_events)
        self._absences = Intervals(_PRIOR, most_kinds, most_away, prior_events)
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
