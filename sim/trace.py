"""Agent programs as plain data, and the file they are kept in (trace schema 1).

A file holds one JSON object per line, one line per program, gzip when its name ends in `.gz`. A prompt is a list of
segments, each a (hash, tokens) pair; equal hashes are equal content, across programs and files, so prefix sharing is
exact without any text. In memory a prompt is a tuple of indices into the program's segments; in the file it is runs
`[first, count]`. A field that a source has nothing for is left out of the file and None here.

`Measured` holds what a run recorded. Its first six fields are those of the schema; the rest, and a program's `run`, are
ours, and readers of the schema skip them.
"""

import gzip
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of content."""

    hash: str
    tokens: int


@dataclass(frozen=True, slots=True)
class Measured:
    """What happened to a call in a run; times in seconds, starts counted from the program's arrival."""

    start_s: float | None = None
    llm_s: float | None = None
    ttft_s: float | None = None
    rec_in: int | None = None
    rec_out: int | None = None
    rec_cached: int | None = None
    queue_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    client: str | None = None
    worker: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One LLM call. It is issued `wait_s` after the last of its parents ended."""

    id: int
    agent: str
    thread: int
    parents: tuple[int, ...]
    prompt: tuple[int, ...]
    output_tokens: int
    output: tuple[int, ...] = ()
    """Segments under which this output comes back in later prompts."""
    tools: tuple[str, ...] = ()
    tool_s: tuple[float, ...] = ()
    wait_s: float | None = None
    wait_kind: str | None = None
    gap_s: float | None = None
    """Parent's issue to this call's issue, where only arrivals were recorded."""
    phase: str = ""
    model: str = ""
    measured: Measured = Measured()


@dataclass(frozen=True, slots=True)
class Program:
    """One run of an agent program. Call ids are 0..n-1, parents come first."""

    program_id: str
    workload: str
    segments: tuple[Segment, ...]
    calls: tuple[Call, ...]
    tenant: str | None = None
    arrival_s: float | None = None
    task: str = ""
    run: str = ""
    """Which of several recorded runs this is, where a file holds more than one."""

    def prompt_tokens(self, call: Call) -> int:
        return sum(self.segments[index].tokens for index in call.prompt)


def read(path: Path | str) -> Iterator[Program]:
    """The programs of a trace file, in file order."""
    with (gzip.open if Path(path).suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield _program(json.loads(line))


def write(path: Path | str, programs: Iterable[Program]) -> None:
    """Write a trace file; equal programs give equal bytes."""
    text = "".join(json.dumps(_program_json(program), separators=(",", ":")) + "\n" for program in programs)
    content = text.encode()
    # mtime 0: the bytes depend on the content alone.
    Path(path).write_bytes(gzip.compress(content, mtime=0) if Path(path).suffix == ".gz" else content)


def _program(data: dict[str, Any]) -> Program:
    return Program(
        program_id=data["program_id"],
        workload=data["workload"],
        segments=tuple(Segment(hash, tokens) for hash, tokens in data["segments"]),
        calls=tuple(_call(call) for call in data["calls"]),
        tenant=data.get("tenant"),
        arrival_s=data.get("arrival_s"),
        task=data.get("task", ""),
        run=data.get("run", ""),
    )


def _call(data: dict[str, Any]) -> Call:
    measured = {field.name: data[field.name] for field in fields(Measured) if field.name in data}
    return Call(
        id=data["id"],
        agent=data.get("agent", ""),
        thread=data.get("thread", 0),
        parents=tuple(data["parents"]),
        prompt=_indices(data["prompt"]),
        output_tokens=data["output_tokens"],
        output=_indices(data.get("output", [])),
        tools=tuple(data.get("tools", [])),
        tool_s=tuple(data.get("tool_s", [])),
        wait_s=data.get("wait_s"),
        wait_kind=data.get("wait_kind"),
        gap_s=data.get("gap_s"),
        phase=data.get("phase", ""),
        model=data.get("model", ""),
        measured=Measured(**measured),
    )


def _program_json(program: Program) -> dict[str, Any]:
    data: dict[str, Any] = {
        "program_id": program.program_id,
        "workload": program.workload,
        "tenant": program.tenant,
        "arrival_s": program.arrival_s,
    }
    data |= {name: value for name, value in (("task", program.task), ("run", program.run)) if value}
    data["segments"] = [[segment.hash, segment.tokens] for segment in program.segments]
    data["calls"] = [_call_json(call) for call in program.calls]
    return data


def _call_json(call: Call) -> dict[str, Any]:
    data: dict[str, Any] = {"id": call.id, "agent": call.agent, "thread": call.thread}
    for name in ("phase", "model"):
        if value := getattr(call, name):
            data[name] = value
    data |= {"parents": list(call.parents), "prompt": _runs(call.prompt), "output_tokens": call.output_tokens}
    if call.output:
        data["output"] = _runs(call.output)
    if call.tools:
        data["tools"] = list(call.tools)
    if call.tool_s:
        data["tool_s"] = list(call.tool_s)
    optional = [(name, getattr(call, name)) for name in ("wait_s", "wait_kind", "gap_s")]
    optional += [(field.name, getattr(call.measured, field.name)) for field in fields(Measured)]
    return data | {name: value for name, value in optional if value is not None}


def _indices(runs: Iterable[Sequence[int]]) -> tuple[int, ...]:
    return tuple(index for first, count in runs for index in range(first, first + count))


def _runs(indices: Iterable[int]) -> list[list[int]]:
    runs: list[list[int]] = []
    for index in indices:
        if runs and sum(runs[-1]) == index:
            runs[-1][1] += 1
        else:
            runs.append([index, 1])
    return runs
