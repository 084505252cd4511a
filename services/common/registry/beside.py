"""Work that runs beside a block of code and ends with it."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from typing import Any


@asynccontextmanager
async def beside(work: Coroutine[Any, Any, object]) -> AsyncGenerator[None]:
    """Run `work` until the block is left. If it fails, the block is cancelled and the work's error raised.

    A TaskGroup that raises the error itself, so that callers need not expect groups. On a starved event loop both may
    have failed by the time that either is heard of: then the first error is raised, with the group as its cause.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(work)
            try:
                yield
            finally:
                task.cancel()
    except BaseExceptionGroup as group:
        first = group.exceptions[0]
        raise first from (first.__cause__ if len(group.exceptions) == 1 else group)
