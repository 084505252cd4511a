"""Explain and ReadLog of the WorkflowService: to be mixed into its servicer.

Programs that were active lately are explained from what is kept of them, and what is in the log but was not learned
yet: who has seen something in the log finds it explained. Of a program that began before this process read the log
from, and of one that is forgotten, the log itself is read again, as far back as it is kept.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, Final, TypeAlias

import grpc

from legato.v1 import workflow_pb2
from services.common.errors import Failure, Reason
from services.common.state import Store, StoreUnavailable
from services.workflow.explain import Explainer, Explanation
from services.workflow.explain_translation import program_of, response_of
from services.workflow.log import replay
from services.workflow.recent import Recent, tell
from services.workflow.structure import Structure

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

_LONGEST_PAUSE_SECONDS: Final = 3600.0
"""A program that made no call for so long is taken for a new one."""
_AT_ONCE: Final = 64
"""Entries of a program that are told before anybody else gets the loop."""


class ExplainMethods:
    """`recent` is fed with the log by its owner, who has got to `position()`, from `whole_after` (Unix seconds) on:
    programs that began before may have made calls that it was not told of."""

    def __init__(self, recent: Recent, store: Store, position: Callable[[], str], whole_after: float = 0.0) -> None:
        self._recent = recent
        self._store = store
        self._position = position
        self.whole_after = whole_after

    async def Explain(self, request: workflow_pb2.ExplainRequest, context: _Context) -> workflow_pb2.ExplainResponse:
        program_id = request.program_id
        if not program_id:
            raise Failure(Reason.INVALID_ARGUMENT, "program_id: must be given", "program_id")
        explanation = await self._from_memory(program_id)
        if explanation is None or explanation.started <= self.whole_after + _LONGEST_PAUSE_SECONDS:
            explanation = await self._from_log(program_id, explanation)
        if explanation is None:
            raise Failure(Reason.PROGRAM_NOT_FOUND, f"nothing is known of program {program_id!r}, or no longer")
        return response_of(explanation)

    async def ReadLog(
        self, request: workflow_pb2.ReadLogRequest, context: _Context
    ) -> AsyncIterator[workflow_pb2.ReadLogResponse]:
        wanted = request.program_id
        async for batch in replay(self._store, follow=request.follow):
            entries = [entry for entry in batch if not wanted or program_of(entry) == wanted]
            if entries:
                yield workflow_pb2.ReadLogResponse(entries=entries)

    async def _from_memory(self, program_id: str) -> Explanation | None:
        position = self._position()  # before: an entry that is told twice counts once
        kept = self._recent.of(program_id)
        if kept is None:
            return None
        explainer = Explainer(Structure(), max_programs=1)
        for place, entry in enumerate(kept.entries(), 1):
            tell(explainer, entry)
            if not place % _AT_ONCE:
                await asyncio.sleep(0)
        with contextlib.suppress(StoreUnavailable):
            await self._read(explainer, program_id, position)
        explanation = explainer.explain(program_id)
        return None if explanation is None else kept.completed(explanation)

    async def _from_log(self, program_id: str, known: Explanation | None) -> Explanation | None:
        """From all that the log keeps of it; `known` where that is less or cannot be read."""
        explainer = Explainer(Structure(), max_programs=1)
        try:
            await self._read(explainer, program_id, "")
        except StoreUnavailable:
            if known is None:
                raise
        found = explainer.explain(program_id)
        return found if known is None or (found and len(found.calls) >= len(known.calls)) else known

    async def _read(self, explainer: Explainer, program_id: str, after: str) -> None:
        """Tell what the log has of the program behind that position. Raises StoreUnavailable."""
        async for batch in replay(self._store, after=after):
            for entry in batch:
                if program_of(entry) == program_id:
                    tell(explainer, entry)
            await asyncio.sleep(0)  # there may be much of it, and others wait for the loop
