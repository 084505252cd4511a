"""The explainer: told what the call log says, it answers where a program's time went.

Contract. Pure, as the core. Events come in the order of the log, each with its entry's time; one that is told twice
counts once. It keeps the programs that were active last, and of each its newest calls and tools; of a call's prompt
only what may still be extended. Parents and kinds of programs come from a `Structure` of its own.
"""

from collections import OrderedDict
from dataclasses import dataclass, field, replace
from math import inf
from typing import assert_never

from services.workflow.events import CallBegan, CallEnded, Event, ProgramOver, ToolRan
from services.workflow.explain.critical import Span, critical_path, gap_seconds
from services.workflow.explain.drift import Prompt, Tails
from services.workflow.explain.records import (
    NO_DETAIL,
    Detail,
    Drift,
    ExplainedCall,
    ExplainedTool,
    Explanation,
)
from services.workflow.explain.speeds import Speeds
from services.workflow.structure import Key, Structure


@dataclass(slots=True, eq=False)
class _Call:
    began: CallBegan
    began_at: float
    parents: tuple[str, ...]
    prompt: Prompt
    drift: Drift | None
    detail: Detail
    ended: CallEnded | None = None
    ended_at: float = inf

    @property
    def span(self) -> Span:
        return Span(self.began_at, self.ended_at, self.parents)


@dataclass(slots=True, eq=False)
class _Program:
    tenant: str
    started: float
    workflow: str = ""
    ended: float = 0.0
    calls: OrderedDict[str, _Call] = field(default_factory=OrderedDict[str, _Call])
    tools: OrderedDict[tuple[ToolRan, float], None] = field(default_factory=OrderedDict[tuple[ToolRan, float], None])
    tails: Tails = field(default_factory=Tails)
    outputs: dict[int, str] = field(default_factory=dict[int, str])
    """Call by the hash of its output."""
    num_forgotten: int = 0


class Explainer:
    def __init__(self, structure: Structure, max_programs: int = 1000, max_calls: int = 1000) -> None:
        self._structure = structure
        self._max_programs = max_programs
        self._max_calls = max_calls
        self._programs: OrderedDict[str, _Program] = OrderedDict()
        self._speeds = Speeds()

    def handle(self, event: Event, now: float, detail: Detail = NO_DETAIL) -> None:
        """What the log says happened then."""
        match event:
            case CallBegan():
                self._begin(event, now, detail)
            case CallEnded():
                self._end(event, now, detail)
            case ToolRan():
                self._tool(event, now)
            case ProgramOver():
                self._over(event, now)
            case _:
                assert_never(event)

    def explain(self, program_id: str) -> Explanation | None:
        """Where its time went, as far as it is known; None for a program that is not known, or no longer."""
        program = self._programs.get(program_id)
        if program is None:
            return None
        spans = {call_id: call.span for call_id, call in program.calls.items()}
        critical = frozenset(critical_path(spans))
        started = program.started
        calls = tuple(
            ExplainedCall(
                call.began,
                call.ended,
                call.detail,
                max(0.0, call.began_at - started),
                call.ended_at - call.began_at if call.ended else 0.0,
                call.parents,
                call_id in critical,
                gap_seconds(spans[call_id], spans),
                self._priced(call),
            )
            for call_id, call in program.calls.items()
        )
        tools = tuple(
            ExplainedTool(
                *(tool.tool, tool.agent, max(0.0, at - tool.seconds - started)),
                *(tool.seconds, tool.failed, tool.call_id),
            )
            for tool, at in program.tools
        )
        names = (program_id, program.tenant, program.workflow)
        return Explanation(*names, started, program.ended, calls, tools, program.num_forgotten)

    def check(self) -> None:
        """Raise AssertionError where the state contradicts itself."""
        assert len(self._programs) <= self._max_programs
        for program in self._programs.values():
            assert len(program.calls) <= self._max_calls
            assert len(program.tools) <= self._max_calls
            assert all(call_id in program.calls for call_id in program.outputs.values())

    def _begin(self, event: CallBegan, now: float, detail: Detail) -> None:
        seen = self._structure.begin(event, now)
        program = self._program(event, now)
        known = program.calls.get(event.call_id)
        if known is not None and (known.ended is None or now <= known.began_at):
            return
        if known is not None:  # it was refused, and is tried again under the same name
            self._forget(program, event.call_id)
        program.ended = 0.0
        program.workflow = event.workflow or name_of(self._structure.family_of(event.program_id) or ())
        prompt, drift = program.tails.add(event, program.outputs)
        began = replace(event, messages=(), message_tokens=(), roles="")
        program.calls[event.call_id] = _Call(began, now, seen.parents, prompt, drift, detail)
        if len(program.calls) > self._max_calls:
            self._forget(program, next(iter(program.calls)))
            program.num_forgotten += 1

    def _end(self, event: CallEnded, now: float, detail: Detail) -> None:
        self._structure.end(event, now)
        program = self._programs.get(event.program_id)
        call = None if program is None else program.calls.get(event.call_id)
        if program is None or call is None or call.ended is not None:
            return
        self._programs.move_to_end(event.program_id)
        call.ended, call.ended_at = event, max(now, call.began_at)
        call.detail = replace(detail, source=call.detail.source)
        if event.completed:
            if event.output:
                call.prompt.output = event.output
                call.prompt.output_tokens = event.output_tokens
                call.prompt.reasoning_tokens = detail.reasoning_tokens
                program.outputs[event.output] = event.call_id
            uncached = max(0, event.prompt_tokens - event.cached_tokens)
            model = call.began.model
            self._speeds.add(model, uncached, event.output_tokens, event.engine_seconds, detail.prefill_seconds)

    def _tool(self, event: ToolRan, now: float) -> None:
        self._structure.tool(event, now)
        program = self._programs.get(event.program_id)
        if program is not None:
            self._programs.move_to_end(event.program_id)
            program.tools[event, now] = None
            if len(program.tools) > self._max_calls:
                program.tools.popitem(last=False)

    def _over(self, event: ProgramOver, now: float) -> None:
        self._structure.over(event.program_id, now)
        if (program := self._programs.get(event.program_id)) is not None:
            program.ended = program.ended or now

    def _program(self, event: CallBegan, now: float) -> _Program:
        program = self._programs.get(event.program_id)
        if program is None:
            program = _Program(event.tenant, now)
            self._programs[event.program_id] = program
            if len(self._programs) > self._max_programs:
                self._programs.popitem(last=False)
        self._programs.move_to_end(event.program_id)
        return program

    def _forget(self, program: _Program, call_id: str) -> None:
        call = program.calls.pop(call_id)
        if call.ended is not None and program.outputs.get(call.ended.output) == call_id:
            del program.outputs[call.ended.output]

    def _priced(self, call: _Call) -> Drift | None:
        """What the drift cost: at most what the call had to compute, and at most as long as that took."""
        drift, ended = call.drift, call.ended
        if drift is None:
            return None
        tokens, token_seconds = drift.lost_tokens, self._speeds.token_seconds(call.began.model)
        if ended is not None and ended.prompt_tokens:
            uncached = max(0, ended.prompt_tokens - ended.cached_tokens)
            tokens = min(tokens, uncached)
            if uncached and call.detail.prefill_seconds:
                token_seconds = min(token_seconds, call.detail.prefill_seconds / uncached)
        return replace(drift, lost_tokens=tokens, lost_seconds=tokens * token_seconds)


def name_of(kind: Key) -> str:
    """A kind of program, for people: as its author calls it, else by the role of its first call; empty: unknown."""
    match kind:
        case (_, "workflow", name):
            return str(name)
        case (_, "family" | "variant", name, number):
            return str(name) if number == 1 else f"{name}.{number}"
        case _:
            return ""
