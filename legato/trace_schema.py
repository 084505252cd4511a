"""Recorded programs as the simulator reads them: trace schema 1, a JSON object for each program.

Prompts are the hashes of their messages, so what they share, inside a program and across, is exact; their lengths are
those of the log, by characters. Calls that gave no output are left out.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from legato.recording import Call, Program
from legato.v1 import workflow_pb2


def trace_of(program: Program, lengths: Mapping[int, int], arrival_seconds: float) -> dict[str, Any]:
    """`lengths`: tokens of each content. Equal programs give equal objects."""
    return _Trace(program, lengths).json(arrival_seconds)


class _Trace:
    """One program."""

    def __init__(self, program: Program, lengths: Mapping[int, int]) -> None:
        self._program = program
        self._lengths = lengths
        self._calls = [call for call in program.calls.values() if call.whole]
        self._numbers = {call.call_id: number for number, call in enumerate(self._calls)}
        self._threads: dict[str, int] = {}
        self._segments: dict[int | str, int] = {}
        """Places in the table, by content."""
        self._table: list[tuple[str, int]] = []

    def json(self, arrival_s: float) -> dict[str, Any]:
        prompts = [self._prompt(call) for call in self._calls]  # first: an output is told where a prompt holds it
        calls = [self._call(call, prompt) for call, prompt in zip(self._calls, prompts, strict=True)]
        first = next(iter(self._program.calls.values())).began.identity
        return {
            "program_id": self._program.program_id,
            "workload": first.workflow or "recorded",
            "tenant": first.tenant or None,
            "arrival_s": arrival_s,
            "segments": self._table,
            "calls": calls,
        }

    def _prompt(self, call: Call) -> list[int]:
        began = call.began
        if not began.messages:  # it came without content: nobody shares it
            return [self._segment(f"{self._program.program_id}/{call.call_id}", began.prompt_tokens)]
        return [self._segment(message, self._lengths.get(message, 0)) for message in began.messages]

    def _segment(self, content: int | str, tokens: int) -> int:
        place = self._segments.get(content)
        if place is None:
            place = self._segments[content] = len(self._table)
            self._table.append((content if isinstance(content, str) else f"{content:016x}", tokens))
        return place

    def _call(self, call: Call, prompt: list[int]) -> dict[str, Any]:
        began, ended, identity = call.began, call.ended, call.began.identity
        assert ended is not None
        known = [parent for parent in call.parents if parent in self._numbers]
        parents = sorted(number for parent in known if (number := self._numbers[parent]) < self._numbers[call.call_id])
        waited_from = max((self._calls[parent].ended_at for parent in parents), default=self._program.started)
        data: dict[str, Any] = {
            "id": self._numbers[call.call_id],
            "agent": identity.agent,
            "thread": self._threads.setdefault(identity.thread, len(self._threads)),
            **({"phase": identity.step} if identity.step else {}),
            **({"model": began.model} if began.model else {}),
            "parents": parents,
            "prompt": _runs(prompt),
            "output_tokens": ended.usage.completion_tokens,
        }
        if ended.output in self._segments:
            data["output"] = [[self._segments[ended.output], 1]]
        if ended.tools:
            data["tools"] = list(ended.tools)
            if seconds := self._tool_seconds(ended):
                data["tool_s"] = seconds
        data |= {"wait_s": max(0.0, call.at - waited_from), "wait_kind": self._wait_kind(call, parents)}
        return data | self._measured(call, ended)

    def _tool_seconds(self, ended: workflow_pb2.CallEnded) -> list[float]:
        """Of all tools that it asked for, or nothing."""
        ran = [tool for tool in self._program.tools.values() if tool.call_id == ended.call_id]
        seconds: list[float] = []
        for name in ended.tools:
            tool = next((tool for tool in ran if tool.tool == name), None)
            if tool is None:
                return []
            ran.remove(tool)
            seconds.append(tool.seconds)
        return seconds

    def _wait_kind(self, call: Call, parents: list[int]) -> str:
        """As far as it can be told; whether a person was asked cannot."""
        waited_for = [self._calls[parent] for parent in parents]
        if any(parent.ended is not None and parent.ended.tools for parent in waited_for):
            return "tool"
        if len(waited_for) > 1:
            return "join"
        if any(parent.chain != call.chain for parent in waited_for):
            return "spawn" if self._first_of_chain(call) else "handoff"
        return "env"

    def _first_of_chain(self, call: Call) -> bool:
        return next(other for other in self._calls if other.chain == call.chain) is call

    def _measured(self, call: Call, ended: workflow_pb2.CallEnded) -> dict[str, Any]:
        usage, timings = ended.usage, ended.timings
        data: dict[str, Any] = {
            "start_s": max(0.0, call.at - self._program.started),
            "llm_s": call.ended_at - call.at,
            "ttft_s": timings.queue_seconds + timings.prefill_seconds,
            "rec_in": usage.prompt_tokens,
            "rec_out": usage.completion_tokens,
            "rec_cached": usage.cached_tokens,
            "queue_s": timings.queue_seconds,
            "prefill_s": timings.prefill_seconds,
            "decode_s": timings.decode_seconds,
        }
        data |= {name: value for name, value in (("worker", ended.worker_id), ("error", ended.error)) if value}
        return data


def _runs(places: Iterable[int]) -> list[list[int]]:
    """As [first, count] each."""
    runs: list[list[int]] = []
    for place in places:
        if runs and sum(runs[-1]) == place:
            runs[-1][1] += 1
        else:
            runs.append([place, 1])
    return runs
