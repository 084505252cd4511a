"""Foresight: when threads come back, as the workflow service foretells it, else as was learned here.

What is said of a call counts from the call's end; what is said of an idle thread, from now on, and only until its next
call. What has expired, and what nobody foretells, is as if there were no workflow service. It stands in front of what
learns here, which learns all the same.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from services.common.agenda import Agenda
from services.common.laws import Law, Quantiles
from services.kvpool.events import ThreadForeseen
from services.kvpool.programs import Returns
from services.kvpool.segment import Program, Thread

_Name: TypeAlias = tuple[str, str]
"""Program, thread."""


@dataclass(slots=True, eq=False)
class Foretold:
    """What holds of a thread, in each of the namespaces that it uses."""

    name: _Name
    returns: Law
    running: bool
    learned: dict[Thread, Law | None] = field(default_factory=dict[Thread, Law | None])
    """Idle threads that go by it, with what was learned of them here."""


class Foresight:
    """Returns, on top of `learner`. At most `most` threads are remembered; the oldest go first. The agenda gives each
    Foretold back when it has expired."""

    def __init__(self, learner: Returns, agenda: Agenda[object], most: int) -> None:
        self._learner = learner
        self._agenda = agenda
        self._most = most
        self._told: dict[_Name, Foretold] = {}

    def __len__(self) -> int:
        return len(self._told)

    def hear(self, event: ThreadForeseen, threads: Iterable[Thread], now: float) -> None:
        """Something is foretold. `threads`: those of that name that are known."""
        name = event.program_id, event.thread
        self.expire(self._told.get(name))
        if event.valid_seconds <= 0:
            return
        if len(self._told) >= self._most:
            self.expire(next(iter(self._told.values())))
        told = self._told[name] = Foretold(name, event.returns, event.running)
        self._agenda.set(told, now + event.valid_seconds)
        if not event.running:
            for thread in threads:
                if not thread.num_running:
                    _go_by(told, thread, now - thread.idle_since)

    def expire(self, told: Foretold | None) -> None:
        """It holds no longer. Harmless when it did not."""
        if told is None or self._told.get(told.name) is not told:
            return
        del self._told[told.name]
        self._agenda.discard(told)
        for thread, law in told.learned.items():
            thread.returns = law

    def began(self, thread: Thread, agent: str, now: float) -> None:
        self._learner.began(thread, agent, now)
        told = self._told.get(_name(thread))
        if told is not None:
            if thread in told.learned:
                thread.returns = told.learned.pop(thread)
            if not told.running:  # it was about this call
                self.expire(told)

    def finished(self, thread: Thread, now: float) -> None:
        self._learner.finished(thread, now)
        told = self._told.get(_name(thread))
        if told is not None:
            _go_by(told, thread, 0.0)

    def ended(self, thread: Thread, now: float) -> None:
        self._learner.ended(thread, now)
        told = self._told.get(_name(thread))
        if told is not None:
            told.learned.pop(thread, None)

    def observe(self, program: Program, gap_seconds: float) -> None:
        self._learner.observe(program, gap_seconds)

    def law(self, program: Program) -> Law | None:
        return self._learner.law(program)

    def gone(self, program: Program, now: float) -> None:
        self._learner.gone(program, now)

    def check(self) -> None:
        """Raise AssertionError where it contradicts itself."""
        assert len(self._told) <= self._most, "more is remembered than may be"
        for told in self._told.values():
            assert told in self._agenda, "what is foretold never expires"
            assert all(not thread.num_running for thread in told.learned), "a running thread goes by its return"


def _go_by(told: Foretold, thread: Thread, idle_seconds: float) -> None:
    """The thread, idle for so long, is expected as foretold. Laws of threads count from when they became idle."""
    told.learned[thread] = thread.returns
    law = told.returns
    if idle_seconds > 0 and isinstance(law, Quantiles):
        law = Quantiles([idle_seconds + point for point in law.points], law.never)
    thread.returns = law


def _name(thread: Thread) -> _Name:
    return thread.program.program_id, thread.name
