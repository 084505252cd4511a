"""Lobby: the calls of programs that no worker has room for yet, in the ordering's order, and who is let in next.

Each pass lets in as many programs as fit. A few that come later may slip past one that does not fit, but not past one
that has starved, one that was overtaken often enough, or one that ran before (where the admission lets these go first:
newcomers are small, and would take all the room that it waits for): then nobody is let in before it. A worker that
runs nothing takes whoever is first (residents.py), so every call leaves the lobby.
"""

from services.scheduler.events import CallKey
from services.scheduler.ledger import Ledger
from services.scheduler.records import Call, Program
from services.scheduler.residents import Residents
from services.scheduler.waiting import WaitingRoom

_LOOK_AHEAD = 8
"""Calls that others may slip past, in one pass."""
_OVERTAKEN = 16
"""Programs by which a call may be overtaken."""


class Lobby:
    """The way into the queue and out of it. Bounded as the queue is."""

    def __init__(self, waiting: WaitingRoom, residents: Residents) -> None:
        self._waiting = waiting
        self._queue = waiting.queue
        self._residents = residents
        self._calls: dict[tuple[str, str], dict[CallKey, Call]] = {}
        """By (program, model)."""

    def enter(self, call: Call, now: float, timeout_seconds: float) -> int:
        """Queue a call, here or in sight of placement; how many of its model go before it there.

        Calls that ran before, or whose program holds KV already, do not stop here.
        """
        program, residents = call.program, self._residents
        ran = call.attempt > 0 or call.prefilled_at is not None
        if residents.policy.bounded and not ran and not residents.admitted(program, call.model):
            call.in_lobby = True
            call.resumed = residents.policy.resumes_first and program.num_finished > 0
            program.num_paused += 1
            self._calls.setdefault((program.program_id, call.model), {})[call.key] = call
        else:
            residents.expect(call, now)
        return self._waiting.enter(call, now, timeout_seconds)

    def leave(self, call: Call, now: float) -> int:
        """Take a queued call out, wherever it waits: it was rejected or forgotten; how many went before it there."""
        position = self._waiting.leave(call, now)
        if call.in_lobby:
            self._strike(call)
            call.in_lobby = False
        else:
            self._residents.rest(call, now)
        return position

    def admit(self, model: str, now: float, limit: int) -> bool:
        """Let in those for whose programs there is room, looking at most at so many calls; may there be more?"""
        passed: list[Call] = []
        calls = self._queue.lobby(model, limit)
        closed = self._residents.closed(model)
        for call in calls:
            if not call.in_lobby:
                continue  # another call of its program was before it
            if not closed and not self._residents.admitted(call.program, model):
                ledger = self._residents.room_for(call, now)
                if ledger is None:
                    passed.append(call)
                    if call.resumed or call.promoted or call.overtaken >= _OVERTAKEN or len(passed) == _LOOK_AHEAD:
                        return False
                    continue
                self._move_in(call, ledger, now)
                for overtaken in passed:
                    overtaken.overtaken += 1
            self._let_in(call.program, model, now)
        return len(calls) == limit > len(passed)

    def _move_in(self, call: Call, ledger: Ledger, now: float) -> None:
        program = call.program
        program.home, program.admitted = ledger.worker_id, now
        if program.num_finished:
            ledger.waited(now - call.queued_at)

    def _let_in(self, program: Program, model: str, now: float) -> None:
        for call in list(self._calls[program.program_id, model].values()):
            self._strike(call)
            self._queue.let_in(call)
            call.paused_seconds = now - call.queued_at
            self._residents.expect(call, now)

    def _strike(self, call: Call) -> None:
        call.program.num_paused -= 1
        key = (call.program.program_id, call.model)
        del self._calls[key][call.key]
        if not self._calls[key]:
            del self._calls[key]
