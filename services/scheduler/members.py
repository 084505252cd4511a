"""Following the members of a service: one task for each that the registry lists, for as long as it lists it so."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from contextlib import aclosing
from typing import Any

from services.common.registry import Member, Registry


async def follow_each(
    registry: Registry,
    service: str,
    follow: Callable[[Member], Coroutine[Any, Any, None]],
    listed: Callable[[Collection[str]], None],
) -> None:
    """Run `follow` for each member until cancelled; one that moved is followed anew. `listed` gets every list of ids
    before those that are new on it are followed."""
    followed: dict[str, tuple[Member, asyncio.Task[None]]] = {}
    async with asyncio.TaskGroup() as tasks, aclosing(registry.watch(service)) as snapshots:
        async for members in snapshots:
            for name, (member, task) in list(followed.items()):
                if members.get(name) != member:
                    task.cancel()
                    del followed[name]
            listed(members.keys())
            for name, member in members.items():
                if name not in followed:
                    followed[name] = member, tasks.create_task(follow(member), name=f"watch {name}")
