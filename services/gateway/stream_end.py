"""How a stream that is written and read at once may end, as one Failure."""

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import grpc

from services.common import rpc
from services.common.errors import Failure, Reason


@contextmanager
def stream_end(peer: str) -> Generator[None]:
    """Raises Failure for whatever way the stream inside breaks; lets everything else through.

    Besides its own error, grpc.aio raises InvalidStateError when a stream is written to after its end, and, when the
    peer cancelled it, a CancelledError that nobody here asked for.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Failure(Reason.UNAVAILABLE, f"{peer} cancelled the stream") from None
    except Exception as error:
        failure = _meaning(error, peer)
        if failure is None:
            raise
        raise failure from None


def _meaning(error: BaseException, peer: str) -> Failure | None:
    """The failure behind the error or behind each error of a group; None when there is another kind of error."""
    if isinstance(error, grpc.aio.AioRpcError):
        return rpc.failure_from(error)
    if isinstance(error, Failure):
        return error
    if isinstance(error, asyncio.InvalidStateError | TimeoutError):
        return Failure(Reason.UNAVAILABLE, f"{peer} does not answer")
    if isinstance(error, BaseExceptionGroup):
        members = cast("BaseExceptionGroup[Any]", error).exceptions
        found = [_meaning(member, peer) for member in members]
        return None if None in found else found[0]
    return None
