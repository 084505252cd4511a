"""Tool spans: how long a program's tools run, so that the cluster can learn when its next call comes."""

import logging
import secrets
import time
from types import TracebackType
from typing import Self

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from legato.attempts import Policy
from legato.errors import LegatoError
from legato.thread import Thread
from legato.transport import Transport
from legato.v1 import gateway_pb2

_log = logging.getLogger(__name__)
_POLICY = Policy(max_retries=0, deadline_seconds=2.0)  # a measurement is not worth a pause of the program


class ToolSpan:
    """One run of a tool, `async with program.tool("search") as span`. A report that fails is logged, never raised."""

    def __init__(
        self, transport: Transport, program_id: str, thread: Thread, tool: str, agent: str, call_id: str
    ) -> None:
        self._transport = transport
        self._program_id = program_id
        self._thread = thread
        self._tool = tool
        self._agent = agent
        self._call_id = call_id
        self._started = 0.0
        self.failed = False
        """Set it for a tool that fails without raising."""
        self.duration_seconds = 0.0
        """Known after leaving."""

    async def __aenter__(self) -> Self:
        if not self._call_id and len(self._thread.front) == 1:
            [(self._call_id, agent)] = self._thread.front.items()
            self._agent = self._agent or agent
        self._started = time.time()
        self._began = time.perf_counter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.duration_seconds = time.perf_counter() - self._began
        self.failed = self.failed or error is not None
        try:
            await self._transport.unary(lambda stub: stub.ReportToolSpan, self._report(), _POLICY)
        except LegatoError as failure:
            _log.warning("tool span %s of program %s was not reported: %s", self._tool, self._program_id, failure)

    def _report(self) -> gateway_pb2.ReportToolSpanRequest:
        started, duration = Timestamp(), Duration()
        started.FromNanoseconds(round(self._started * 1e9))
        duration.FromNanoseconds(round(self.duration_seconds * 1e9))
        return gateway_pb2.ReportToolSpanRequest(
            request_id=secrets.token_hex(8),
            program_id=self._program_id,
            agent=self._agent,
            tool=self._tool,
            started=started,
            duration=duration,
            failed=self.failed,
            call_id=self._call_id,
        )
