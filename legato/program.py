"""Programs: one run of an agent program each, with its agents, its branches and its tools.

Every call knows which calls it follows. Nothing has to be said for that: calls made one after the other form a chain,
calls made at once are a fork, `branch` and `gather` name its arms, and the next call joins them. Branches follow the
task: whatever runs inside `async with program.branch()`, and tasks that start there, belongs to that branch.
"""

import asyncio
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, overload

from legato.agent import Agent, Identity
from legato.endings import Endings
from legato.options import CallOptions, ServiceClass
from legato.thread import Front, Thread
from legato.tool_span import ToolSpan
from legato.transport import Transport

A = TypeVar("A")
B = TypeVar("B")
C = TypeVar("C")


class Scope(ABC):
    """A place in a program where calls are made: the program itself, or a branch of it."""

    def __init__(self, program: "Program") -> None:
        self._program = program

    @abstractmethod
    def thread(self) -> Thread:
        """The chain of calls that the next call belongs to."""

    def agent(self, name: str, *, system: str = "", **options: Unpack[CallOptions]) -> Agent:
        """A role that makes calls. `system` opens its every conversation; `options` are the defaults of its calls."""
        return Agent(self._program.transport, self._program.identity, self.thread, name, system, options)

    def tool(self, name: str, *, agent: str = "", call_id: str = "") -> ToolSpan:
        """Measure and report the tool that runs inside `async with`. A body that raises counts as a failed tool.

        Unless told otherwise, the thread's last call is what asked for it.
        """
        identity = self._program.identity
        return ToolSpan(self._program.transport, identity.program_id, self.thread(), name, agent, call_id)

    def branch(self, name: str = "") -> "Branch":
        """One arm of a fork: calls inside `async with` follow this scope's last calls; what comes after follows them.

        The name becomes the thread's id, behind that of the thread it leaves and with a number where it is taken.
        """
        return Branch(self._program, self, name)

    @overload
    async def gather(self, first: Coroutine[Any, Any, A], /) -> tuple[A]: ...
    @overload
    async def gather(self, first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B], /) -> tuple[A, B]: ...
    @overload
    async def gather(
        self, first: Coroutine[Any, Any, A], second: Coroutine[Any, Any, B], third: Coroutine[Any, Any, C], /
    ) -> tuple[A, B, C]: ...
    @overload
    async def gather(self, *coroutines: Coroutine[Any, Any, A]) -> tuple[A, ...]: ...
    async def gather(self, *coroutines: Coroutine[Any, Any, Any]) -> tuple[Any, ...]:
        """Run coroutines at once, each in a branch of its own, and return what they return, in order.

        The first failure cancels the others and is raised.
        """
        failure: BaseException | None = None
        tasks: list[asyncio.Task[Any]] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._in_branch(coroutine)) for coroutine in coroutines]
        except BaseExceptionGroup as group:
            failure = group.exceptions[0]
        finally:
            for coroutine in coroutines:
                coroutine.close()  # those that a cancellation kept from starting; harmless for the others
        if failure is not None:
            raise failure
        return tuple(task.result() for task in tasks)

    async def _in_branch(self, coroutine: Coroutine[Any, Any, A]) -> A:
        async with self.branch():
            return await coroutine


class Program(Scope):
    """One run of an agent program: `async with client.program() as program`. Leaving tells the cluster of its end,
    unless the program `outlives` this, being a whole process's.
    """

    def __init__(
        self,
        transport: Transport,
        endings: Endings,
        program_id: str,
        tenant: str,
        service_class: ServiceClass,
        deadline_seconds: float | None,
        *,
        workflow: str = "",
        outlives: bool = False,
    ) -> None:
        super().__init__(self)
        self.transport = transport
        self._endings = endings
        self._outlives = outlives
        due = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        self.identity = Identity(program_id or secrets.token_hex(8), tenant, service_class, due, workflow)
        self._main = Thread()
        endings.take_back(self.id)

    @property
    def id(self) -> str:
        return self.identity.program_id

    def thread(self) -> Thread:
        """The branch that the current task is in, else the main thread."""
        return _threads.get().get(self, self._main)

    async def end(self) -> None:
        """Tell the cluster that no more calls come, so that it can free what it keeps. Raises LegatoError."""
        await self._endings.tell(self.id)

    async def __aenter__(self) -> Self:
        self._endings.take_back(self.id)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._outlives:
            await self._endings.leave(self.id)


class Branch(Scope):
    """One arm of a fork, and everything that a program offers, inside it."""

    def __init__(self, program: Program, parent: Scope, name: str) -> None:
        super().__init__(program)
        self._parent_scope = parent
        self._name = name
        self._began: Front = {}
        self._parent: Thread | None = None
        self._thread: Thread | None = None
        self._outside: Mapping[Program, Thread] = {}

    @property
    def id(self) -> str:
        """Of its thread of calls."""
        return self._entered().id

    def thread(self) -> Thread:
        """The branch of this branch that the current task is in, else its own."""
        current, own = self._program.thread(), self._entered()
        return current if current.within(own) else own

    def _entered(self) -> Thread:
        if self._thread is None:
            raise RuntimeError("a branch is used inside `async with`")
        return self._thread

    async def __aenter__(self) -> Self:
        self._parent = self._parent_scope.thread()
        self._thread = self._parent.fork(self._name)
        self._began = self._thread.front
        self._outside = _threads.get()
        _threads.set({**self._outside, self._program: self._thread})
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _threads.set(self._outside)
        if self._parent is not None and self._thread is not None:
            self._parent.advance(self._began, self._thread.front)


_threads: ContextVar[Mapping[Program, Thread]] = ContextVar("legato_threads", default={})  # noqa: B039  # never mutated
