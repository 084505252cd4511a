"""A program's call log, as a gateway would have written it had every call run alone on an engine of its own.

A call begins as sim/client.py issues it: when its parents have ended, their tools have run and its wait is over. It
takes its engine seconds (sim/foresight.py), nothing queues. A segment is a message; the segments under which an output
comes back are one message, wherever they stand together. The first message is the system prompt, outputs are the
assistant's, all others the user's. An output that never comes back has a hash of its own.

Without `declared` the log says neither parents nor threads nor steps: what a learner has to find out itself.
"""

import heapq
from array import array
from collections import defaultdict
from hashlib import blake2b

from services.worker.simulated.cost import Profile
from services.workflow.events import CallBegan, CallEnded, Event, ProgramOver, ToolRan
from sim import foresight
from sim.trace import Call, Program


def events_of(
    program: Program,
    profile: Profile,
    start: float,
    *,
    declared: bool = False,
    agents: bool = True,
    threads: bool = False,
) -> list[tuple[float, Event]]:
    """In order of time, the end of a call before what begins at the same moment. Call ids are the trace's, in decimal.

    `agents`: whether calls name their agent; `threads`: their thread, though nothing else is declared.
    """
    prompts = Prompts(program)
    timed: list[tuple[float, int, int, Event]] = []
    for call, seconds, (begin, end) in zip(
        program.calls, foresight.services(program, profile), times(program, profile, start), strict=True
    ):
        timed.append((begin, 1, call.id, prompts.began(call, declared=declared, agents=agents, threads=threads)))
        timed.append((end, 0, call.id, prompts.ended(call, seconds)))
        for tool, took in zip(call.tools, call.tool_s, strict=False):
            ran = ToolRan(program.program_id, tool, took, call.agent if agents else "", call_id=str(call.id))
            timed.append((end + took, 0, call.id, ran))
    timed.sort(key=lambda entry: entry[:3])
    events = [(when, event) for when, _, _, event in timed]
    return [*events, (events[-1][0], ProgramOver(program.program_id))]


def times(program: Program, profile: Profile, start: float) -> list[tuple[float, float]]:
    """When each call begins and ends."""
    found: list[tuple[float, float]] = []
    for call, seconds in zip(program.calls, foresight.services(program, profile), strict=True):
        parents = [program.calls[parent] for parent in call.parents]
        last = max((found[parent.id][1] for parent in parents), default=start)
        tools = max((max(parent.tool_s, default=0.0) for parent in parents), default=0.0)
        begin = last + max(call.wait_s or 0.0, tools)
        if call.gap_s is not None:
            begin = max([begin, *(found[parent.id][0] + call.gap_s for parent in parents)])
        found.append((begin, begin + seconds))
    return found


def merged(histories: list[list[tuple[float, Event]]]) -> list[tuple[float, Event]]:
    """One log of several."""
    return list(heapq.merge(*histories, key=lambda entry: entry[0]))


class Prompts:
    """A program's segments as messages."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._hashes = [_hash(segment.hash) for segment in program.segments]
        self._outputs = {call.output for call in program.calls if call.output}
        self._joined: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        for output in sorted(self._outputs, key=len, reverse=True):
            self._joined[output[0]].append(output)

    def began(self, call: Call, *, declared: bool = False, agents: bool = True, threads: bool = False) -> CallBegan:
        """The call comes."""
        pieces = self._pieces(call.prompt)
        segments = self._program.segments
        letters = "".join("a" if piece in self._outputs else "u" for piece in pieces)
        return CallBegan(
            self._program.program_id,
            str(call.id),
            max(1, self._program.prompt_tokens(call)),
            self._program.tenant or "",
            self._program.workload if declared else "",
            call.agent if agents else "",
            f"{call.thread}/{call.agent}" if declared or threads else "",
            call.phase if declared else "",
            tuple(map(str, call.parents)) if declared else (),
            call.model,
            array("Q", (self._message(piece) for piece in pieces)),
            array("I", (sum(segments[index].tokens for index in piece) for piece in pieces)),
            "s" + letters[1:],
        )

    def ended(self, call: Call, seconds: float) -> CallEnded:
        """It ended, after so many engine seconds."""
        return CallEnded(
            self._program.program_id,
            str(call.id),
            True,
            prompt_tokens=max(1, self._program.prompt_tokens(call)),
            output_tokens=max(1, call.output_tokens),
            engine_seconds=seconds,
            output=self.output(call),
            tools=call.tools,
        )

    def output(self, call: Call) -> int:
        """Hash of what it generates."""
        return self._message(call.output) if call.output else _hash(f"{self._program.program_id}/{call.id}")

    def _pieces(self, prompt: tuple[int, ...]) -> list[tuple[int, ...]]:
        pieces: list[tuple[int, ...]] = []
        at = 0
        while at < len(prompt):
            outputs = self._joined.get(prompt[at], ())
            piece = next((each for each in outputs if prompt[at : at + len(each)] == each), (prompt[at],))
            pieces.append(piece)
            at += len(piece)
        return pieces

    def _message(self, piece: tuple[int, ...]) -> int:
        if len(piece) == 1:
            return self._hashes[piece[0]]
        return _hash("/".join(self._program.segments[index].hash for index in piece))


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest())
