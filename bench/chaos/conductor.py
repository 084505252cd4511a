"""Carries out a plan: each fault begins and ends at its time, and none outlives the run."""

import asyncio
from bisect import insort
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench.chaos.cluster import Cluster
from bench.chaos.plan import Planned


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault that was. Times are the event loop's."""

    planned: Planned
    began: float
    ended: float


async def conduct(cluster: Cluster, plan: Sequence[Planned], say: Callable[[str], None], done: list[Injected]) -> None:
    """Carry it out; all that was injected comes into `done`, in the order of its beginning. Cancelled or not, whatever
    was injected is healed."""
    now = asyncio.get_running_loop().time
    start_at = now()
    busy: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def one(planned: Planned) -> None:
        await asyncio.sleep(start_at + planned.at - now())
        async with AsyncExitStack() as stack:
            for target in sorted(planned.targets):
                # On a busy machine the one before may be healed late, and is not to undo this one.
                await stack.enter_async_context(busy[target])
            say(str(planned))
            began = now()
            try:
                await planned.fault.inject(cluster)
                await asyncio.sleep(began + planned.fault.seconds - now())
            finally:
                await planned.fault.heal(cluster)
                insort(done, Injected(planned, began, now()), key=lambda injected: injected.began)

    async with asyncio.TaskGroup() as tasks:
        for planned in plan:
            tasks.create_task(one(planned), name=str(planned))
