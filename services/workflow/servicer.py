"""WorkflowService over what this process has learned. Explain and ReadLog are in explain_servicer.py."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeAlias

import grpc

from legato.v1 import workflow_pb2, workflow_pb2_grpc
from services.common.state import Store
from services.workflow.board import Board
from services.workflow.explain_servicer import ExplainMethods
from services.workflow.recent import Recent

_Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class WorkflowServicer(ExplainMethods, workflow_pb2_grpc.WorkflowServiceServicer):
    """Everything runs on the event loop's thread. `caught_up`: set once the board says what is in force. `position`:
    how far the log is learned."""

    def __init__(
        self, board: Board, recent: Recent, store: Store, caught_up: asyncio.Event, position: Callable[[], str]
    ) -> None:
        super().__init__(recent, store, position)
        self._board = board
        self._caught_up = caught_up

    async def WatchForecasts(
        self, request: workflow_pb2.WatchForecastsRequest, context: _Context
    ) -> AsyncGenerator[workflow_pb2.WatchForecastsResponse]:
        await self._caught_up.wait()
        with self._board.watching() as watcher:
            yield watcher.batch()
            while True:
                yield await watcher.take()
