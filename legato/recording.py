"""Recording: the call log put together to programs again.

Which calls a call waited for is not in the log unless it was declared: it is found in what its prompt holds of earlier
outputs, else it is the call before it in its thread, else the one that ended last.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf

from legato.explanation import ExplainedCall, ExplainedTool, Explanation, cache_note_of, outcome_of
from legato.reply import timings_of, usage_of
from legato.v1 import workflow_pb2


@dataclass(slots=True, eq=False)
class Call:
    """One call of a recorded program."""

    began: workflow_pb2.CallBegan
    at: float
    parents: tuple[str, ...]
    number: int
    lineage: int
    """A bit for each of its parents, theirs, and so on, by their numbers."""
    ended: workflow_pb2.CallEnded | None = None
    ended_at: float = 0.0

    @property
    def call_id(self) -> str:
        return self.began.identity.call_id

    @property
    def chain(self) -> tuple[str, str]:
        """Thread and agent: calls of one chain extend each other."""
        return self.began.identity.thread, self.began.identity.agent

    @property
    def whole(self) -> bool:
        """It ended, and something came of it."""
        return self.ended is not None and self.ended.usage.completion_tokens > 0


@dataclass(slots=True, eq=False)
class Program:
    """One recorded program."""

    program_id: str
    started: float
    calls: dict[str, Call] = field(default_factory=dict[str, Call])
    tools: dict[tuple[float, bytes], workflow_pb2.ToolRan] = field(
        default_factory=dict[tuple[float, bytes], workflow_pb2.ToolRan]
    )
    """By when they were told of, and what was said."""
    outputs: dict[int, Call] = field(default_factory=dict[int, Call])
    last: dict[tuple[str, str], Call] = field(default_factory=dict[tuple[str, str], Call])
    """Of each chain, the call that ended last."""
    newest: Call | None = None
    """The call that ended last of all."""
    _count: int = 0

    def begin(self, began: workflow_pb2.CallBegan, at: float) -> None:
        call_id = began.identity.call_id
        known = self.calls.get(call_id)
        if known is not None and (known.ended is None or known.whole or at <= known.at):
            return  # told twice; else it was refused before, and is tried again
        parents = tuple(began.identity.parents) or self._waited_for(began)
        lineage = 0
        for parent in parents:
            if (call := self.calls.get(parent)) is not None:
                lineage |= call.lineage | 1 << call.number
        self.calls.pop(call_id, None)
        self.calls[call_id] = Call(began, at, parents, self._count, lineage)
        self._count += 1

    def end(self, ended: workflow_pb2.CallEnded, at: float) -> None:
        call = self.calls.get(ended.call_id)
        if call is None or call.ended is not None:
            return
        call.ended, call.ended_at = ended, max(at, call.at)
        if call.whole:
            self.last[call.chain] = self.newest = call
            if ended.output:
                self.outputs[ended.output] = call

    def _waited_for(self, began: workflow_pb2.CallBegan) -> tuple[str, ...]:
        messages = began.messages
        found = {call.call_id: call for message in messages if (call := self.outputs.get(message)) is not None}
        before = self.last.get((began.identity.thread, began.identity.agent))
        if before is not None:
            count = len(before.began.messages)
            if not found or (count and messages[:count] == before.began.messages[:]):
                found[before.call_id] = before
        if not found and self.newest is not None:
            found[self.newest.call_id] = self.newest
        older = 0
        for call in found.values():
            older |= call.lineage
        return tuple(call_id for call_id, call in found.items() if not older >> call.number & 1)


class Recording:
    """Holds the programs that it was told of, in the order in which they came."""

    def __init__(self) -> None:
        self.programs: dict[str, Program] = {}
        self._over: dict[str, float] = {}
        """Programs, by when they were last over."""
        self._origin: float | None = None
        self.lengths: dict[int, int] = {}
        """Tokens of each content: the same in all of the recording."""

    def add(self, entry: workflow_pb2.LogEntry) -> str:
        """The next entry; the program that is over by it, if one is."""
        match entry.WhichOneof("event"):
            case "began":
                self._begin(entry.began, entry.at)
            case "ended":
                if (program := self.programs.get(entry.ended.program_id)) is not None:
                    program.end(entry.ended, entry.at)
            case "tool":
                if (program := self.programs.get(entry.tool.program_id)) is not None:
                    program.tools[entry.at, entry.tool.SerializeToString(deterministic=True)] = entry.tool
            case "over":
                self._over[entry.over.program_id] = entry.at
                return entry.over.program_id if entry.over.program_id in self.programs else ""
            case _:
                pass
        return ""

    def arrival_seconds(self, program: Program) -> float:
        """From the recording's first call."""
        return max(0.0, program.started - (self._origin or program.started))

    def _begin(self, began: workflow_pb2.CallBegan, at: float) -> None:
        program_id = began.identity.program_id
        if program_id not in self.programs:
            if at <= self._over.get(program_id, -inf):
                return  # told twice
            self.programs[program_id] = Program(program_id, at)
        if self._origin is None:
            self._origin = at
        for message, tokens in zip(began.messages, began.message_tokens, strict=False):
            self.lengths.setdefault(message, tokens)
        self.programs[program_id].begin(began, at)


def explanation_of(program: Program) -> Explanation:
    """As far as the log alone tells it: no critical path, no drift."""
    first = next(iter(program.calls.values())).began.identity
    tools = [
        ExplainedTool(tool.tool, tool.agent, max(0.0, at - tool.seconds - program.started), *_rest(tool))
        for (at, _), tool in program.tools.items()
    ]
    return Explanation(
        program_id=program.program_id,
        tenant=first.tenant,
        workflow=first.workflow,
        started=datetime.fromtimestamp(program.started, UTC),
        ended=None,
        calls=tuple(_explained(program, call) for call in program.calls.values()),
        tools=tuple(tools),
    )


def _rest(tool: workflow_pb2.ToolRan) -> tuple[float, bool, str]:
    return tool.seconds, tool.failed, tool.call_id


def _explained(program: Program, call: Call) -> ExplainedCall:
    identity, ended = call.began.identity, call.ended or workflow_pb2.CallEnded()
    ends = [program.calls[parent].ended_at for parent in call.parents if parent in program.calls]
    return ExplainedCall(
        call_id=call.call_id,
        agent=identity.agent,
        thread=identity.thread,
        step=identity.step,
        began=max(0.0, call.at - program.started),
        seconds=call.ended_at - call.at if call.ended else 0.0,
        outcome=outcome_of(ended.reason, ended.error) if call.ended else "running",
        error=ended.error,
        usage=usage_of(ended.usage),
        timings=timings_of(ended.timings),
        worker_id=ended.worker_id,
        parents=call.parents,
        critical=False,
        gap_seconds=max(0.0, call.at - max(ends, default=call.at)),
        tools=tuple(ended.tools),
        cache=cache_note_of(ended.cache) if ended.HasField("cache") else None,
    )
