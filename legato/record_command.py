"""`legato record`: writes what happened on the cluster as a trace that the simulator replays, or Perfetto shows."""
# ruff: noqa: T201 (a command prints)

import argparse
import asyncio
import gzip
import json
import sys
from contextlib import ExitStack, aclosing
from pathlib import Path
from typing import TextIO

from legato import perfetto, trace_schema
from legato.client import Client
from legato.recording import Program, Recording, explanation_of


def run(client: Client, arguments: argparse.Namespace) -> int:
    """The command. Programs are written as they end, those that live at the end of the recording then. Raises
    LegatoError; what was recorded until then is written."""
    if not arguments.out and not arguments.perfetto:
        print("legato: record needs --out or --perfetto", file=sys.stderr)
        return 2
    with ExitStack() as stack:
        trace = _opened(stack, arguments.perfetto)  # now, so that a path that cannot be written costs no recording
        recorder = _Recorder(_opened(stack, arguments.out), keep=trace is not None)
        try:
            asyncio.run(recorder.record(client, arguments.program, arguments.follow))
        except KeyboardInterrupt:
            if not arguments.follow:  # else that is how it ends
                raise
        finally:
            recorder.finish()
            if trace is not None:
                trace.write(json.dumps(perfetto.trace_of([explanation_of(program) for program in recorder.kept])))
    print(f"{recorder.num_programs} programs, {recorder.num_calls} calls", file=sys.stderr)
    return 0


def _opened(stack: ExitStack, path: str | None) -> TextIO | None:
    if not path:
        return None
    if path.endswith(".gz"):
        return stack.enter_context(gzip.open(path, "wt", encoding="utf-8"))
    return stack.enter_context(Path(path).open("w", encoding="utf-8"))


class _Recorder:
    """Writes programs of which some call gave output. `keep`: and remembers them."""

    def __init__(self, out: TextIO | None, *, keep: bool) -> None:
        self.kept: list[Program] = []
        self.num_programs = self.num_calls = 0
        self._out = out
        self._keep = keep
        self._recording = Recording()

    async def record(self, client: Client, program_id: str, follow: bool) -> None:
        async with client, aclosing(client.read_log(program_id, follow=follow)) as entries:
            async for entry in entries:
                if over := self._recording.add(entry):
                    num_calls = self._write(self._recording.programs.pop(over))
                    if follow:
                        print(f"{over}: {num_calls} calls", file=sys.stderr, flush=True)

    def finish(self) -> None:
        """Write those that are not over."""
        for program in self._recording.programs.values():
            self._write(program)
        self._recording.programs.clear()

    def _write(self, program: Program) -> int:
        """How many calls there were to write."""
        recording = self._recording
        trace = trace_schema.trace_of(program, recording.lengths, recording.arrival_seconds(program))
        if not (num_calls := len(trace["calls"])):
            return 0
        self.num_programs += 1
        self.num_calls += num_calls
        if self._keep:
            self.kept.append(program)
        if self._out is not None:
            self._out.write(json.dumps(trace, separators=(",", ":")) + "\n")
            self._out.flush()
        return num_calls
