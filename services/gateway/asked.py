"""What the scheduler is asked beside the stream: each question is answered or refused."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import grpc

from services.common import rpc
from services.common.errors import Reason
from services.gateway.schedule import no_scheduler

T = TypeVar("T")


async def answer(call: Awaitable[T]) -> T:
    """Of a call on the scheduler's stub. Raises Failure: NO_SCHEDULER also for one that is left meanwhile."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        failure = rpc.failure_from(error)
        if failure.reason in (Reason.UNAVAILABLE, Reason.NOT_LEADER):
            failure.reason = Reason.NO_SCHEDULER
        raise failure from None
    except asyncio.CancelledError:
        # A channel that is closed cancels its calls, and who awaits one of them hears of it as if cancelled itself.
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        raise no_scheduler() from None
