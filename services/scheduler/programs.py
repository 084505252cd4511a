"""Programs: the records of live programs and of the newest ended ones.

Memory is bounded: at most `max_programs` are live without a call waiting or running (the longest idle one ends), those
idle for `program_idle_seconds` end, and the `kept_programs` newest ended ones are kept.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator

from services.scheduler.events import CallSubmitted, ProgramRestored
from services.scheduler.limits import Limits
from services.scheduler.records import Program
from services.scheduler.tenants import Tenant


class Programs:
    """A program with no live call is idle; it may end at any time, and starts from zero if it comes back."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._live: dict[str, Program] = {}
        self._idle: OrderedDict[str, Program] = OrderedDict()
        self._ended: deque[Program] = deque(maxlen=limits.kept_programs)

    def __len__(self) -> int:
        return len(self._live)

    def get(self, program_id: str) -> Program | None:
        """The live program of that id."""
        return self._live.get(program_id)

    def live(self) -> Iterator[Program]:
        """Live programs, newest first."""
        return reversed(self._live.values())

    def ended(self) -> Iterator[Program]:
        """Ended programs, the last ended first."""
        return reversed(self._ended)

    def start(self, call: CallSubmitted, account: Tenant, now: float) -> Program:
        """The live program of a new call, begun now if there is none."""
        program_id = call.program_id
        program = self._live.get(program_id)
        if program is None:
            program = self._live[program_id] = Program(program_id, call.tenant, started=now, last_active=now)
        self._idle.pop(program_id, None)
        program.account = account
        program.agent = program.agent or call.agent
        program.service_class = call.service_class
        if call.deadline_seconds > 0:
            program.deadline = min(program.deadline, now + call.deadline_seconds)
        return program

    def restore(self, event: ProgramRestored, now: float) -> None:
        """A program of an earlier scheduler: idle as yet or, where that is told late, already at work again."""
        if (program := self._live.get(event.program_id)) is not None:
            _add(program, event)
            return
        self._live[event.program_id] = self._idle[event.program_id] = Program(
            event.program_id,
            event.tenant,
            started=event.started,
            last_active=now,
            num_finished=event.num_finished,
            num_restarted=event.num_restarted,
            executed_seconds=event.executed_seconds,
            served_seconds=event.attained_seconds,
            attained_seconds=event.attained_seconds,
            waited_seconds=event.waited_seconds,
            queue_seconds=event.queue_seconds,
            usage=event.usage,
            service_class=event.service_class,
            deadline=event.deadline,
            restored=True,
        )

    def settle(self, program: Program, now: float) -> None:
        """One of its calls went, or its end was announced: end it or put it among the idle, if no call is left."""
        program.last_active = now
        if program.num_live:
            return
        if program.ending:
            self._end(program, now)
        else:
            self._idle[program.program_id] = program
            self._idle.move_to_end(program.program_id)

    def next_due(self) -> float | None:
        """When `expire` has something to do."""
        if len(self._idle) > self._limits.max_programs:
            return float("-inf")
        oldest = next(iter(self._idle.values()), None)
        return None if oldest is None else oldest.last_active + self._limits.program_idle_seconds

    def expire(self, now: float, limit: int) -> list[Program]:
        """End programs that were idle too long or are too many, at most `limit`; those."""
        expired: list[Program] = []
        while len(expired) < limit and (due := self.next_due()) is not None and due <= now:
            program = next(iter(self._idle.values()))
            self._end(program, now)
            expired.append(program)
        return expired

    def left_pools(self, program: Program, all_pools: list[str]) -> list[str]:
        """Pools that need keep nothing for the program alone any more; told once, after one of its calls went."""
        if program.ended is not None:
            return all_pools if program.restored else sorted(program.pools)
        return [] if program.num_live else program.left_pools()

    def _end(self, program: Program, now: float) -> None:
        program.ended = now
        del self._live[program.program_id]
        self._idle.pop(program.program_id, None)
        self._ended.append(program)


def _add(program: Program, before: ProgramRestored) -> None:
    """What it did under an earlier scheduler."""
    program.started = min(program.started, before.started)
    program.num_finished += before.num_finished
    program.num_restarted += before.num_restarted
    program.executed_seconds += before.executed_seconds
    program.served_seconds += before.attained_seconds
    program.attained_seconds += before.attained_seconds
    program.waited_seconds += before.waited_seconds
    program.queue_seconds += before.queue_seconds
    program.usage = program.usage.plus(before.usage)
    program.deadline = min(program.deadline, before.deadline)
    program.restored = True
