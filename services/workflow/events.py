"""What the workflow service's core is told, and what it answers.

Every event is one entry of the call log (workflow.proto), so a core that is fed the log again is the core that it was.
The time at which the core is told of one is the entry's own, Unix seconds by its writer's clock: times of several
writers may run a little backwards, and nothing may break by it. (program_id, call_id) names a call; an event that is
told twice counts once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from services.common.forecast import Forecast


@dataclass(frozen=True, slots=True)
class CallBegan:
    """A call came to a gateway."""

    program_id: str
    call_id: str
    prompt_tokens: int
    tenant: str = ""
    workflow: str = ""
    """The kind of program, as its author says; empty: unsaid."""
    agent: str = ""
    thread: str = ""
    step: str = ""
    parents: tuple[str, ...] = ()
    """Calls that it waited for, as its author says; empty: unsaid, or none."""
    model: str = ""
    messages: Sequence[int] = ()
    """Hash of the content of each message, in order; the tools' schemas, where there are any, are the first."""
    message_tokens: Sequence[int] = ()
    """Of each of them, about."""
    roles: str = ""
    """Of each of them a letter: t tools, s system, u user, a assistant, o tool output."""


@dataclass(frozen=True, slots=True)
class CallEnded:
    """A call ended. Only of a `completed` one do output and tools teach anything."""

    program_id: str
    call_id: str
    completed: bool
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    engine_seconds: float = 0.0
    """What it takes on an engine that it has for itself: the unit of all service."""
    output: int = 0
    """Hash of the content of its output, as it will stand in later prompts; 0: none."""
    tools: tuple[str, ...] = ()
    """That it asked for."""


@dataclass(frozen=True, slots=True)
class ToolRan:
    """A tool ran, and its client reported it."""

    program_id: str
    tool: str
    seconds: float
    agent: str = ""
    failed: bool = False
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class ProgramOver:
    """A program makes no more calls."""

    program_id: str


Event: TypeAlias = CallBegan | CallEnded | ToolRan | ProgramOver


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What is expected of a call, or (no call_id) of the next call of its thread; it replaces what was said of the
    same before."""

    program_id: str
    thread: str
    agent: str
    call_id: str
    forecast: Forecast
    """`returns`: with a call_id from that call's end on, else from now on."""
    valid_seconds: float


Action: TypeAlias = Foreseen
