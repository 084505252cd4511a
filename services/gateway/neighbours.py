"""Who a call talks to: the scheduler that finds its places, the workers that run it, the log that remembers it."""

from typing import TYPE_CHECKING, Protocol, TypeAlias

from legato.v1 import scheduler_pb2, worker_pb2, workflow_pb2

if TYPE_CHECKING:
    from services.gateway.call import Call

CallKey: TypeAlias = tuple[str, str]
"""(program_id, call_id)."""


class Slot(Protocol):
    """A call's place at a worker, as long as it has one."""

    def abort(self) -> None:
        """End it there; nothing more is heard from it."""
        ...


class Workers(Protocol):
    def start(self, address: str, start: worker_pb2.StartCall, call: "Call") -> Slot:
        """Hand the call to a worker, which answers through `on_output` and `on_lost`."""
        ...


class Scheduler(Protocol):
    def knows(self, key: CallKey) -> bool:
        """Whether a call of that key lives."""
        ...

    def submit(self, call: "Call") -> None:
        """Ask for a place, answered through `on_placement` and `on_rejection`, until the call is finished."""
        ...

    def first_token(self, key: CallKey, attempt: int) -> None: ...
    def lose(self, key: CallKey, attempt: int, generated_tokens: int) -> None: ...

    def hand_off(self, key: CallKey, attempt: int, generated_tokens: int) -> bool:
        """Ask for a place to decode, answered as `submit` is. False: nobody can be asked now."""
        ...

    def finish(self, finished: scheduler_pb2.FinishCall) -> None: ...

    def end_program(self, program_id: str) -> None:
        """It makes no more calls. Raises Failure when there is no scheduler to tell."""
        ...


class Log(Protocol):
    def put(self, entry: workflow_pb2.LogEntry) -> None:
        """Have it written soon. Takes no time and never fails."""
        ...
