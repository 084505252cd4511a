"""Agents: the roles that make calls."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Unpack

from legato.messages import Messages, system, to_wire
from legato.options import CallOptions, ServiceClass, check_names, request_of
from legato.reply import Reply
from legato.stream import Stream
from legato.thread import Thread
from legato.transport import Transport
from legato.v1 import call_pb2


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose calls these are."""

    program_id: str
    tenant: str
    service_class: ServiceClass = "default"
    """Of calls that say nothing else."""
    due: float | None = None
    """When the program is wanted complete, on `time.monotonic`'s clock."""
    workflow: str = ""


class Agent:
    """A role in a program. Its calls may run at once."""

    def __init__(
        self,
        transport: Transport,
        identity: Identity,
        thread: Callable[[], Thread],
        name: str,
        instructions: str,
        options: CallOptions,
    ) -> None:
        check_names(options)
        self.name = name
        self._transport = transport
        self._identity = identity
        self._thread = thread
        self._opening = to_wire([system(instructions)]) if instructions else []
        self._options = options

    async def chat(self, messages: Messages, **options: Unpack[CallOptions]) -> Reply:
        """Make a call and wait for the whole answer. Cancelling the task aborts the call. Raises LegatoError."""
        async with self._stream(messages, options, incremental=False) as stream:
            return await stream.finish()

    def stream(self, messages: Messages, **options: Unpack[CallOptions]) -> Stream:
        """Make a call and read the answer as it comes, inside `async with`. Raises InvalidRequest."""
        return self._stream(messages, options, incremental=True)

    def _stream(self, messages: Messages, options: CallOptions, *, incremental: bool) -> Stream:
        check_names(options)
        merged: CallOptions = {"service_class": self._identity.service_class, **self._options, **options}
        thread = self._thread()
        identity = call_pb2.CallIdentity(
            program_id=self._identity.program_id,
            call_id=secrets.token_hex(8),
            tenant=self._identity.tenant,
            agent=self.name,
            thread=thread.id,
            step=merged.get("step", ""),
            workflow=self._identity.workflow,
        )
        wire = [*self._opening, *to_wire(messages)]
        request = request_of(identity, wire, merged, incremental=incremental)
        return Stream(self._transport, thread, request, merged.get("deadline_seconds"), self._identity.due)
