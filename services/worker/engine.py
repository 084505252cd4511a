"""The engine interface: what the worker's service needs of whatever generates tokens.

An engine runs calls it is given, in batches that it forms itself, and tells its listener what each step produced.
`submit` and `abort` never block and never raise for a bad call: such a call finishes with an error. Every submitted
call ends in exactly one output with `finish`, unless the engine dies, which `run` reports by raising EngineDead.
All methods and callbacks run on the event loop's thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from legato.v1 import worker_pb2


class EngineDead(Exception):
    """The engine is gone; its calls are lost."""


@dataclass(frozen=True, slots=True)
class EngineCall:
    """One call for the engine. `key` is unique among its live calls."""

    key: int
    start: worker_pb2.StartCall


@dataclass(frozen=True, slots=True)
class Output:
    """What one call produced in one step. `message.slot` is left 0: the service fills it in."""

    key: int
    message: worker_pb2.CallOutput


class Listener(Protocol):
    """Where an engine reports to."""

    def on_outputs(self, outputs: Sequence[Output]) -> None:
        """The outputs of a step. Several outputs of one call may be merged before they are sent."""
        ...

    def on_load(self, load: worker_pb2.Load) -> None:
        """Fresh counters; called about once a step while busy, at least once when the engine falls idle."""
        ...

    def on_cache(self, stored: Sequence[int], removed: Sequence[int], reset: bool) -> None:
        """Changes of the prefix cache, as the low 64 bits of the blocks' chained hashes. `reset`: all others left."""
        ...


class Engine(Protocol):
    """Generates tokens for calls."""

    async def start(self, listener: Listener) -> worker_pb2.WorkerDescription:
        """Load the model and get ready. `worker_id` of the answer is left empty."""
        ...

    async def run(self) -> None:
        """Serve until cancelled. Raises EngineDead within a second of the engine's death."""
        ...

    def submit(self, call: EngineCall) -> None:
        """Begin a call."""
        ...

    def abort(self, key: int) -> None:
        """End a call early; it finishes with FINISH_REASON_ABORT. An unknown key is ignored."""
        ...

    def prioritize(self, key: int, priority: int) -> None:
        """Make a call more or less urgent, if the engine can. An unknown key is ignored."""
        ...

    async def close(self) -> None:
        """Stop, aborting what runs, and free everything."""
        ...
