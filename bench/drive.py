"""Runs programs against a live Legato and measures every call.

A call is issued when its parents have ended and its wait is over; tools are waits of the recorded length. An output is
always as long as the program says (end-of-sequence is ignored), and later prompts carry text of that length instead of
what was generated, so that every run of a program sends the same prompts whatever the model says. Programs take the
given clients in turn, shape by shape. A call that fails ends its program: later calls are not issued, others finish.
"""

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Protocol

from bench.text import text_of
from sim.trace import Call, Measured, Program


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a prompt."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What a client saw of one call. `first_at` is loop time; None when no output came."""

    first_at: float | None
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    queue_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    worker: str | None = None


class Session(Protocol):
    """One program, as a client sees it."""

    async def chat(self, call: Call, messages: Sequence[Message]) -> Reply:
        """Run one call to its end."""
        ...

    def tool(self, call: Call, name: str) -> AbstractAsyncContextManager[object]:
        """Inside, a tool runs that the output of `call` asked for."""
        ...


class Client(Protocol):
    """A way into Legato."""

    @property
    def name(self) -> str: ...

    def program(self, program: Program) -> AbstractAsyncContextManager[Session]:
        """The program is live while inside."""
        ...


@dataclass(slots=True)
class Board:
    """Counts of a run while it goes on."""

    programs: int = 0
    started: int = 0
    done: int = 0
    failed: int = 0
    calls: int = 0
    calls_open: int = 0
    calls_done: int = 0
    tools_open: int = 0
    output_tokens: int = 0


async def drive(programs: Sequence[Program], clients: Sequence[Client], board: Board | None = None) -> list[Program]:
    """Run all programs at their arrival times; the same programs with what was measured, in the same order."""
    board = board or Board()
    board.programs, board.calls = len(programs), sum(len(program.calls) for program in programs)
    turn: Counter[str] = Counter()
    start_at = asyncio.get_running_loop().time()
    async with asyncio.TaskGroup() as tasks:
        runs: list[asyncio.Task[Program]] = []
        for program in programs:
            client = clients[turn[program.workload] % len(clients)]
            turn[program.workload] += 1
            runs.append(tasks.create_task(_Run(program, client, board, start_at).run(), name=program.program_id))
    return [run.result() for run in runs]


def conversation(program: Program, call: Call) -> list[Message]:
    """The prompt as messages: the first segment is the system's, outputs of earlier calls are the assistant's."""
    outputs = {index for earlier in program.calls[: call.id] for index in earlier.output}
    messages: list[Message] = []
    for position, index in enumerate(call.prompt):
        role = "system" if position == 0 and index not in outputs else "assistant" if index in outputs else "user"
        segment = program.segments[index]
        messages.append(Message(role, text_of(segment.hash, segment.tokens)))
    return messages


class _Failed(Exception):
    """A parent failed, so its children cannot run."""


class _Run:
    """One run of one program."""

    def __init__(self, program: Program, client: Client, board: Board, start_at: float) -> None:
        self._program = program
        self._client = client
        self._board = board
        self._start_at = start_at
        self._clock = asyncio.get_running_loop().time
        self._arrived_at = 0.0
        self._issued_at: dict[int, float] = {}
        self._ended = [asyncio.get_running_loop().create_future() for _ in program.calls]
        """For each call: True when it ended well, False when it failed or cannot run."""

    async def run(self) -> Program:
        await asyncio.sleep(self._start_at + (self._program.arrival_s or 0.0) - self._clock())
        self._arrived_at = self._clock()
        self._board.started += 1
        calls = await self._calls()
        failed = any(call.measured.llm_s is None for call in calls)
        self._board.done += not failed
        self._board.failed += failed
        return dataclasses.replace(self._program, arrival_s=self._arrived_at - self._start_at, calls=tuple(calls))

    async def _calls(self) -> list[Call]:
        async with AsyncExitStack() as stack:
            try:
                session = await stack.enter_async_context(self._client.program(self._program))
            except Exception as error:  # whatever a client raises is a result of the run, told in the report
                return [_measured(call, Measured(error=_line(error))) for call in self._program.calls]
            async with asyncio.TaskGroup() as tasks:
                runs = [tasks.create_task(self._call(session, call)) for call in self._program.calls]
        return [run.result() for run in runs]

    async def _call(self, session: Session, call: Call) -> Call:
        ended = self._ended[call.id]
        try:
            await self._wait(session, call)
            measured = await self._chat(session, call)
        except _Failed:
            measured = Measured()
        except Exception as error:  # as above
            measured = Measured(error=_line(error), client=self._client.name)
        ended.set_result(measured.llm_s is not None)
        return _measured(call, measured)

    async def _wait(self, session: Session, call: Call) -> None:
        """Until the parents have ended and what they asked for has run."""
        if not all(await asyncio.gather(*(self._ended[parent] for parent in call.parents))):
            raise _Failed
        ended_at = self._clock()
        parents = [self._program.calls[parent] for parent in call.parents]
        async with asyncio.TaskGroup() as tasks:
            for parent in parents:
                for name, seconds in zip(parent.tools, parent.tool_s, strict=False):
                    tasks.create_task(self._tool(session, parent, name, seconds))
        # A trace may know of a wait without a tool, or of a longer one than its tools took.
        due_at = ended_at + (call.wait_s or 0.0)
        if call.gap_s is not None:
            due_at = max([due_at, *(self._issued_at[parent] + call.gap_s for parent in call.parents)])
        await asyncio.sleep(due_at - self._clock())

    async def _tool(self, session: Session, call: Call, name: str, seconds: float) -> None:
        self._board.tools_open += 1
        try:
            async with session.tool(call, name):
                await asyncio.sleep(seconds)
        finally:
            self._board.tools_open -= 1

    async def _chat(self, session: Session, call: Call) -> Measured:
        messages = conversation(self._program, call)
        self._board.calls_open += 1
        issued_at = self._issued_at[call.id] = self._clock()
        try:
            reply = await session.chat(call, messages)
        finally:
            self._board.calls_open -= 1
        if reply.completion_tokens != call.output_tokens:
            raise ValueError(f"{reply.completion_tokens} output tokens instead of {call.output_tokens}")
        self._board.calls_done += 1
        self._board.output_tokens += reply.completion_tokens
        return Measured(
            start_s=issued_at - self._arrived_at,
            llm_s=self._clock() - issued_at,
            ttft_s=None if reply.first_at is None else reply.first_at - issued_at,
            rec_in=reply.prompt_tokens,
            rec_out=reply.completion_tokens,
            rec_cached=reply.cached_tokens,
            queue_s=reply.queue_s,
            prefill_s=reply.prefill_s,
            decode_s=reply.decode_s,
            client=self._client.name,
            worker=reply.worker,
        )


def _measured(call: Call, measured: Measured) -> Call:
    return dataclasses.replace(call, measured=measured)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
