"""The workflow core: it is told what programs do, and says what it expects of each call and of each thread's next one.

A call that begins is answered with what is expected of it; one that ends, if its thread has no other, with when the
thread's next call will come and what will remain then; and where a program has several branches, with the slack of
those for which it has changed. Nothing is refused: what comes twice, late or out of order is passed over. All is
bounded by `Limits`, deterministic, and depends on what it was told alone.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, assert_never

from services.common.forecast import NO_FORECAST, Forecast
from services.common.laws import Key, Quantiles
from services.workflow.branches import changed
from services.workflow.events import CallBegan, CallEnded, Event, Foreseen, ProgramOver, ToolRan
from services.workflow.limits import Limits
from services.workflow.outlook import Outlook, later
from services.workflow.records import Call, Program, Thread
from services.workflow.structure import Structure

_LIMITS = Limits()
_LATE = 1.25
"""Times the latest return that is expected: for so long its forecast holds, if that is longer than others do."""


class Core:
    """Feed through services/common/driver.py."""

    def __init__(self, limits: Limits = _LIMITS) -> None:
        self._limits = limits
        self._structure = Structure()
        self._outlook = Outlook(limits)
        self._programs: OrderedDict[str, Program] = OrderedDict()
        """The one not heard of longest is the first."""
        self._num_calls = 0
        """Of them."""
        self._gone: OrderedDict[tuple[str, str], None] = OrderedDict()
        """Calls of programs that are over."""

    @property
    def num_programs(self) -> int:
        """That live."""
        return len(self._programs)

    def kind_of(self, program_id: str) -> Key | None:
        """The most special kind that a program that lives is of, as far as it is known."""
        program = self._programs.get(program_id)
        return None if program is None else program.kinds[-1]

    def handle(self, event: Event, now: float) -> list[Foreseen]:
        """Take one event, and say what is foreseen by it."""
        match event:
            case CallBegan():
                return self._begin(event, now)
            case CallEnded():
                return self._end(event, now)
            case ToolRan():
                if (program := self._programs.get(event.program_id)) is not None:
                    self._hear(program, now)
                    self._structure.tool(event, now)
            case ProgramOver():
                self._over(event.program_id, now)
            case _:
                assert_never(event)
        return []

    def tick(self, now: float) -> list[Foreseen]:
        """Programs that fell silent are over."""
        while (due := self.next_tick()) is not None and due <= now:
            self._over(next(iter(self._programs)), now)
        return []

    def next_tick(self) -> float | None:
        """When the next program will have been silent for too long."""
        first = next(iter(self._programs.values()), None)
        return None if first is None else first.heard + self._limits.silent_seconds

    def snapshot(self) -> dict[str, Any]:
        """What was learned, as JSON takes it; not the programs that live."""
        return {
            "structure": self._structure.snapshot(),
            "outlook": self._outlook.snapshot(self._limits.snapshot_cells),
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Know what a snapshot tells. For a core that was told nothing yet."""
        self._structure.restore(data["structure"])
        self._outlook.restore(data["outlook"])

    def check(self) -> None:
        """Raise AssertionError if something is not as it always is."""
        limits = self._limits
        assert len(self._programs) <= limits.max_programs
        assert self._num_calls == sum(len(program.calls) for program in self._programs.values())
        assert len(self._programs) <= 1 or self._num_calls <= limits.max_calls
        assert len(self._gone) <= limits.max_remembered_calls
        for program_id, program in self._programs.items():
            live = [call for thread in program.threads.values() for call in thread.live.values()]
            assert program.program_id == program_id
            assert program.num_live == len(live) <= len(program.calls) <= limits.max_calls_per_program
            assert len(program.threads) <= limits.max_threads_per_program
            for call in live:
                assert program.calls[call.call_id] is call
                assert not call.ended
            for thread in program.threads.values():
                assert not (thread.live and thread.returns is not None)
        self._structure.check()
        self._outlook.check()

    def _begin(self, event: CallBegan, now: float) -> list[Foreseen]:
        program = self._programs.get(event.program_id)
        if program is not None and event.call_id in program.calls:
            return []
        if (event.program_id, event.call_id) in self._gone:
            return []
        seen = self._structure.begin(event, now)
        if program is None:
            program = self._new(event)
        program.kinds = list(seen.kinds)
        self._hear(program, now)
        thread = self._thread(program, event)
        if thread is None:
            return []
        if len(program.calls) >= self._limits.max_calls_per_program:
            self._forget(program, next(iter(program.calls.values())))
        if not thread.live and thread.returns is not None:
            self._outlook.returned(thread, max(0.0, now - thread.idle_since))
        last = program.calls.get(seen.predecessor) or thread.last
        before = last.prompt_tokens + last.output_tokens if last and last.ended else 0
        call = Call(
            event.call_id,
            seen.role,
            thread,
            now,
            event.prompt_tokens,
            max(1, event.prompt_tokens - before) if before <= event.prompt_tokens else event.prompt_tokens,
            event.model,
            seen.parents,
            seen.turn,
        )
        call.forecast = self._outlook.began(program, call, event, last)
        program.calls[call.call_id] = thread.live[call.call_id] = call
        program.num_live += 1
        self._num_calls += 1
        while self._num_calls > self._limits.max_calls and len(self._programs) > 1:
            self._drop_first()
        return self._said(program, now, thread, call)

    def _end(self, event: CallEnded, now: float) -> list[Foreseen]:
        program = self._programs.get(event.program_id)
        call = program.calls.get(event.call_id) if program is not None else None
        if program is None or call is None or call.ended:
            return []
        self._structure.end(event, now)
        self._hear(program, now)
        thread = call.thread
        call.ended = True
        del thread.live[call.call_id]
        program.num_live -= 1
        program.num_ended += 1
        if event.completed:
            call.output_tokens = event.output_tokens
            call.seconds = max(0.0, event.engine_seconds)
            call.tools = ",".join(sorted(set(event.tools))[:3])
            program.attained_seconds += call.seconds
            self._outlook.ended(call, event)
            thread.last = call
        call.output = None
        self._outlook.outlived(program)
        if event.completed and not thread.live:
            thread.idle_since = now
            thread.forecast = self._outlook.idle(program, thread, call)
        call.forecast = NO_FORECAST
        return self._said(program, now, thread if event.completed and not thread.live else None)

    def _over(self, program_id: str, now: float) -> None:
        if (program := self._drop(program_id, now)) is not None:
            self._outlook.over(program)

    def _drop(self, program_id: str, now: float) -> Program | None:
        program = self._programs.pop(program_id, None)
        if program is not None:
            self._num_calls -= len(program.calls)
            self._structure.over(program_id, now)
            self._remember(program_id, program.calls)
        return program

    def _drop_first(self) -> None:
        """There are too many: the program not heard of longest is forgotten. It may live, so nothing is learned of how
        it ended."""
        first = next(iter(self._programs.values()))
        self._drop(first.program_id, first.heard)

    def _forget(self, program: Program, call: Call) -> None:
        """A call of a program that has too many."""
        del program.calls[call.call_id]
        self._num_calls -= 1
        if not call.ended:
            del call.thread.live[call.call_id]
            program.num_live -= 1
        self._remember(program.program_id, (call.call_id,))

    def _remember(self, program_id: str, call_ids: Iterable[str]) -> None:
        for call_id in call_ids:
            self._gone[program_id, call_id] = None
        while len(self._gone) > self._limits.max_remembered_calls:
            self._gone.popitem(last=False)

    def _said(self, program: Program, now: float, thread: Thread | None, call: Call | None = None) -> list[Foreseen]:
        """What is new of a thread (of its call, or of the next one), and what has changed for others by it."""
        importances: dict[Call | Thread, float] = {}
        if len(program.threads) > 1 or program.num_live > 1:
            importances = changed(program)
        foreseen: list[Foreseen] = []
        if thread is not None:
            newest = call or thread
            foreseen.append(self._foreseen(program, newest, importances.pop(newest, 0.0), now))
        foreseen += [self._foreseen(program, other, value, now) for other, value in importances.items()]
        return foreseen

    def _foreseen(self, program: Program, of: Call | Thread, importance: float, now: float) -> Foreseen:
        if of.forecast.importance != importance:
            of.forecast = _with(of.forecast, importance)
        forecast, valid = of.forecast, self._limits.valid_seconds
        if isinstance(of, Call):
            return Foreseen(program.program_id, of.thread.name, of.thread.agent, of.call_id, forecast, valid)
        if isinstance(forecast.returns, Quantiles):
            valid = max(valid, _LATE * forecast.returns.points[-1])
            if (since := now - of.idle_since) > 0:  # it counts from now on
                forecast = replace(forecast, returns=later(forecast.returns, since))
        return Foreseen(program.program_id, of.name, of.agent, "", forecast, valid)

    def _new(self, event: CallBegan) -> Program:
        while len(self._programs) >= self._limits.max_programs:
            self._drop_first()
        messages = event.messages
        program = Program(event.program_id, [()], hash(tuple(messages[:3])) & 0xFFFFFFFF if len(messages) else 0)
        self._programs[event.program_id] = program
        return program

    def _thread(self, program: Program, event: CallBegan) -> Thread | None:
        name = event.thread or event.agent
        thread = program.threads.get(name)
        if thread is None and len(program.threads) < self._limits.max_threads_per_program:
            thread = program.threads[name] = Thread(event.thread, event.agent)
        return thread

    def _hear(self, program: Program, now: float) -> None:
        program.heard = max(program.heard, now)
        self._programs.move_to_end(program.program_id)


def _with(forecast: Forecast, importance: float) -> Forecast:
    """`replace` takes five times as long, and this is done for most forecasts of a program that has branches."""
    parts = (forecast.output, forecast.service, forecast.remaining, forecast.returns)
    return Forecast(*parts, importance, forecast.information)
