"""Forecasts: what the workflow service says of calls, for as long as it holds.

A forecast names a call, or is of the next call of its thread, which takes it when it is submitted. Of a thread's
forecasts the newest counts, by revision. Bounded by the live calls and `most` threads: of more, the one whose forecast
expires first is forgotten.
"""

from dataclasses import replace
from typing import NamedTuple

from services.common.agenda import Agenda
from services.common.forecast import NO_FORECAST, Forecast
from services.common.laws import Law
from services.scheduler.events import CallForeseen
from services.scheduler.records import Call

Thread = tuple[str, str, str]
"""(program, thread, agent): the agent only where the thread has no name."""


class _Told(NamedTuple):
    revision: int
    call_id: str
    """Only that call takes it; empty: whichever comes."""
    forecast: Forecast
    """Of a call that has not come."""
    until: float


class Forecasts:
    """What holds now."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._threads: dict[Thread, _Told] = {}
        self._programs: dict[str, dict[Thread, None]] = {}
        """Their threads, oldest forecast first."""
        self._ends: Agenda[Thread] = Agenda()
        self._calls: Agenda[Call] = Agenda()
        """Live ones of which something was said, with when it ends to hold."""

    def __len__(self) -> int:
        return len(self._threads) + len(self._calls)

    def hear(self, event: CallForeseen, call: Call | None, now: float) -> bool:
        """A forecast came, of `call` or of one that is not live: is it news? Sets the call's forecast."""
        thread = thread_of(event.program_id, event.thread, event.agent)
        known = self._threads.get(thread)
        if (known is not None and event.revision <= known.revision) or event.valid_seconds <= 0:
            return False
        until = now + event.valid_seconds
        self._enter(thread, _Told(event.revision, event.call_id, NO_FORECAST if call else event.forecast, until))
        if call is not None:
            self._tell(call, event.forecast, until)
        return True

    def take(self, call: Call, now: float) -> None:
        """A call was submitted: it takes what was said of the next call of its thread, if that is this one."""
        thread = thread_of(call.program.program_id, call.thread, call.agent)
        told = self._threads.get(thread)
        if told is None or told.forecast is NO_FORECAST or now >= told.until:
            return
        if told.call_id not in ("", call.key[1]):  # that one is still to come
            return
        self._threads[thread] = told._replace(forecast=NO_FORECAST)
        if not told.call_id:  # its return is this call itself
            self._tell(call, replace(told.forecast, returns=None), told.until)
        else:
            self._tell(call, told.forecast, told.until)

    def remaining(self, program_id: str) -> Law | None:
        """What is left of a program that has no live call, by what was said last."""
        for thread in reversed(self._programs.get(program_id, ())):
            if (law := self._threads[thread].forecast.remaining) is not None:
                return law
        return None

    def left(self, call: Call) -> None:
        """The call is gone."""
        self._calls.discard(call)

    def ended(self, program_id: str) -> None:
        """The program is over."""
        for thread in list(self._programs.get(program_id, ())):
            self._drop(thread)

    def lost(self, now: float) -> None:
        """Nothing that was said holds any longer; `expired` tells, bit by bit. Revisions begin anew."""
        for thread, told in list(self._threads.items()):
            self._enter(thread, _Told(-1, told.call_id, NO_FORECAST, now))
        for call in list(self._calls):
            self._calls.set(call, now)

    def expired(self, now: float, limit: int) -> tuple[list[Call], list[Thread]]:
        """Live calls and threads of which what was said holds no longer, at most so many of each."""
        calls, threads = self._calls.pop_due(now, limit), self._ends.pop_due(now, limit)
        for call in calls:
            call.forecast = call.said
        for thread in threads:
            self._drop(thread)
        return calls, threads

    def next_due(self) -> float | None:
        """When something expires."""
        return min((due for due in (self._calls.next(), self._ends.next()) if due is not None), default=None)

    def check(self) -> None:
        """Raise AssertionError where it contradicts itself."""
        assert len(self._threads) <= self._most, "more is kept of threads than may be"
        listed = {thread for threads in self._programs.values() for thread in threads}
        assert listed == set(self._threads), "threads and their programs do not agree"
        assert len(self._ends) == len(self._threads), "a thread's forecast never expires, or one that is gone does"
        assert all(self._programs.values()), "a program without threads is kept"

    def _tell(self, call: Call, forecast: Forecast, until: float) -> None:
        call.forecast = merged(call.said, forecast)
        self._calls.set(call, until)

    def _enter(self, thread: Thread, told: _Told) -> None:
        self._drop(thread)
        if len(self._threads) >= self._most and (first := self._ends.first()) is not None:
            self._drop(first)
        self._threads[thread] = told
        self._programs.setdefault(thread[0], {})[thread] = None
        self._ends.set(thread, told.until)

    def _drop(self, thread: Thread) -> None:
        if self._threads.pop(thread, None) is None:
            return
        self._ends.discard(thread)
        threads = self._programs[thread[0]]
        del threads[thread]
        if not threads:
            del self._programs[thread[0]]


def thread_of(program_id: str, thread: str, agent: str) -> Thread:
    """A thread is named by its agent where it has no name."""
    return program_id, thread, "" if thread else agent


def merged(said: Forecast, foretold: Forecast) -> Forecast:
    """What the caller said goes first; about the rest the workflow service is believed."""
    return Forecast(
        said.output or foretold.output,
        said.service or foretold.service,
        said.remaining or foretold.remaining,
        said.returns or foretold.returns,
        said.importance or foretold.importance,
        said.information or foretold.information,
    )
