"""The three faults: each kills one process with SIGKILL under streams, and says how long who was hit waited."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import legato
from bench.cluster import Cluster
from bench.failover.streams import Streams

NUM_WORKERS = 4


@dataclass(frozen=True, slots=True)
class Waits:
    """Of one round, in seconds."""

    resumed: Sequence[float]
    """From the signal, of those who were hit."""
    longest: float
    """The longest silence of any stream from then on."""


Fault = Callable[[Cluster, legato.Client, Streams, int], Awaitable[Waits]]
"""Of a round's number; called when all streams have begun, returns when they have ended and the cluster is whole."""


async def worker(cluster: Cluster, client: legato.Client, streams: Streams, number: int) -> Waits:
    """To the next token of each stream that lost its worker."""
    names = [f"worker-{index}" for index in range(1, NUM_WORKERS + 1)]
    await cluster.grown(names)
    async with asyncio.TaskGroup() as tasks:
        streams.start(tasks)
        await streams.begun()
        members = await cluster.announced("worker", NUM_WORKERS)
        lost = members[number % NUM_WORKERS].id
        at = cluster.kill(cluster.process_of(lost))
    await cluster.announced("worker", NUM_WORKERS, without=lost)
    waits = [heard.resumed_after(at) for heard in streams.heard if heard.restarts]
    return Waits([wait for wait in waits if wait is not None], streams.longest_after(at))


async def scheduler(cluster: Cluster, client: legato.Client, streams: Streams, number: int) -> Waits:
    """To the end of a call of one token that is sent with the signal. Streams must not notice."""
    await cluster.grown(("scheduler-1", "scheduler-2"))
    async with asyncio.TaskGroup() as tasks:
        streams.start(tasks)
        await streams.begun()
        async with aclosing(cluster.members.leaders("scheduler")) as leaders:
            lost = await anext(leader.id async for leader in leaders if leader is not None)
        at = cluster.kill(cluster.process_of(lost))
        async with client.program(f"one-token-{number}") as program:
            await program.agent("asker", max_tokens=1, ignore_eos=True).chat("Go on.")
        wait = asyncio.get_running_loop().time() - at
    await cluster.candidates(2, without=lost)
    return Waits([wait], streams.longest_after(at))


async def gateway(cluster: Cluster, client: legato.Client, streams: Streams, number: int) -> Waits:
    """To the next piece of each stream, all of which ran over the gateway that died."""
    await cluster.grown(("gateway-1", "gateway-2"))
    members = await cluster.announced("gateway", 2)
    async with asyncio.TaskGroup() as tasks:
        streams.start(tasks)
        await streams.begun()
        process, lost = next(
            (process, member.id)
            for process, address in cluster.gateways.items()
            for member in members
            if member.address == address == client.address
        )
        at = cluster.kill(process)
    await cluster.announced("gateway", 2, without=lost)
    waits = [heard.resumed_after(at) for heard in streams.heard]
    return Waits([wait for wait in waits if wait is not None], streams.longest_after(at))


FAULTS: dict[str, tuple[Fault, str]] = {
    "worker": (worker, "to the next token of a stream that it ran"),
    "scheduler": (scheduler, "to the end of a one-token call sent then"),
    "gateway": (gateway, "to the next piece of a re-attached stream"),
}
"""By the service that dies, with what is measured."""
