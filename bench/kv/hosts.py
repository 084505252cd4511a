"""Hosts of a cluster on one machine, each a KV pool and vLLM workers, without scheduler and gateway: whoever uses them
says which worker runs what. Benches and end-to-end tests do.
"""

import asyncio
import itertools
import signal
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Container, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from legato.v1 import call_pb2, kv_pb2, kvpool_pb2, kvpool_pb2_grpc, worker_pb2, worker_pb2_grpc
from services.common import config, registry, rpc
from services.common.config import RegistrySection
from services.common.process import exited
from services.common.registry import Member, Registry

READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call gave."""

    token_ids: tuple[int, ...]
    prompt_tokens: int
    cached_tokens: int
    ttft_seconds: float
    seconds: float
    finish: worker_pb2.Finish


@dataclass(slots=True)
class Worker:
    """A worker that is called directly."""

    member: Member
    stub: worker_pb2_grpc.WorkerServiceStub
    calls: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))

    @property
    def pid(self) -> int:
        """Its id is host-pid-random."""
        return int(self.member.id.split("-")[-2])

    async def call(
        self,
        prompt: Sequence[int],
        max_tokens: int,
        *,
        program_id: str = "program",
        num_resumed: int = 0,
        plan: kv_pb2.KVPlan | None = None,
        salt: str = "",
    ) -> Answer:
        """Generate greedily, exactly so many tokens. Raises AioRpcError, and AssertionError for a failed call."""
        number = next(self.calls)
        start = worker_pb2.StartCall(
            slot=number,
            identity=call_pb2.CallIdentity(program_id=program_id, call_id=f"{self.member.id}-{number}"),
            prompt_token_ids=prompt,
            num_resumed_tokens=num_resumed,
            sampling=call_pb2.Sampling(temperature=0, max_tokens=max_tokens, ignore_eos=True),
            kv=plan,
            cache_salt=salt,
        )
        token_ids: list[int] = []
        began = time.monotonic()
        first = 0.0
        stream = self.stub.Generate()
        await stream.write(worker_pb2.GenerateRequest(start=start))
        await stream.done_writing()
        async for response in stream:
            for output in response.outputs:
                first = first or time.monotonic()
                token_ids += output.token_ids
                if output.HasField("finish"):
                    finish = output.finish
                    assert finish.reason != call_pb2.FINISH_REASON_ERROR, finish.error_message
                    usage, now = finish.usage, time.monotonic()
                    return Answer(
                        tuple(token_ids), usage.prompt_tokens, usage.cached_tokens, first - began, now - began, finish
                    )
        raise AssertionError("the stream ended before the call")


@dataclass(slots=True)
class Host:
    """A pool and its workers."""

    name: str
    address: str
    directory: Path
    pool: kvpool_pb2_grpc.KVPoolServiceStub
    workers: list[Worker]
    pool_process: "subprocess.Popen[bytes]"
    command: Sequence[str]
    environment: Mapping[str, str]
    find: Callable[[Container[str]], Awaitable[list[Worker]]]
    """All its workers but those with these ids, once they are up."""

    async def ready(self) -> None:
        """Wait until its workers are up."""
        self.workers = await self.find(())

    async def replaced(self, dead: Worker) -> None:
        """Wait until another worker is up in place of this one."""
        self.workers = await self.find((dead.member.id,))

    async def status(self) -> kvpool_pb2.PoolStatus:
        """Of the pool; waits for one that is coming up."""
        response = await self.pool.Status(kvpool_pb2.StatusRequest(), timeout=READY_SECONDS, wait_for_ready=True)
        return response.status

    async def holds(self, block_hashes: Iterable[int], *, only_on_disk: bool = False) -> None:
        """Wait until the pool holds these blocks (low 64 bits of their hashes). Raises TimeoutError."""
        wanted, dram, ssd = set(block_hashes), set[int](), set[int]()
        async with asyncio.timeout(READY_SECONDS):
            stream = self.pool.WatchReplicas(kvpool_pb2.WatchReplicasRequest())
            async for change in stream:
                for update in change.updates:
                    for come, other in ((update.dram, ssd), (update.ssd, dram)):
                        other.difference_update(come)
                    dram.update(update.dram)
                    ssd.update(update.ssd)
                    dram.difference_update(update.removed)
                    ssd.difference_update(update.removed)
                if wanted <= (ssd if only_on_disk else dram | ssd):
                    stream.cancel()
                    return
        raise AssertionError("a watch has no end")

    async def settled(self) -> None:
        """Wait until nothing is leased or reserved any more. Raises TimeoutError."""
        async with asyncio.timeout(READY_SECONDS):
            while (status := await self.status()).num_leases or status.num_reservations:  # noqa: ASYNC110 (nobody is told)
                await asyncio.sleep(0.1)

    async def replica(self) -> kv_pb2.KVReplica:
        """Its pool, as a scheduler would name it to another host's."""
        description = (await self.status()).description
        return kv_pb2.KVReplica(pool_id=description.pool_id, data_address=description.data_address, num_blocks=2**31)

    async def restart_pool(self) -> None:
        """kill -9, and start it again."""
        self.pool_process.kill()
        await asyncio.to_thread(self.pool_process.wait)
        with (self.directory / "pool.log").open("ab") as log:
            self.pool_process = subprocess.Popen(self.command, env=self.environment, stdout=log, stderr=log)  # noqa: ASYNC220 (a fork takes milliseconds)
        await self.status()


@asynccontextmanager
async def host(
    endpoint: str,
    folder: Path,
    settings: Mapping[str, object],
    *,
    name: str = "alpha",
    address: str = "127.0.0.1",
    prefix: Sequence[str] = (),
    pooled: bool = True,
    wait: bool = True,
) -> AsyncGenerator[Host]:
    """A host for the length of the context. `endpoint`: of the registry. `prefix`: what its commands begin with, such
    as `ip netns exec NAME`. `settings`: "worker.count" workers of "worker.model_path". `pooled`: they use the pool.
    `wait`: until the workers are up; who does not waits for `ready` before the first call."""
    directory = folder / name
    directory.mkdir(parents=True)
    own = {"registry.endpoints": [endpoint], "cluster.host": address, "kvpool.name": name, **settings}
    environment = config.environment({**own, "kvpool.directory": str(directory / "kv"), "cluster.drain_seconds": 2})
    pool_command = (*prefix, sys.executable, "-m", "services.kvpool")
    worker_command = (*prefix, sys.executable, "-m", "services.worker")
    count = settings.get("worker.count", 1)
    assert isinstance(count, int)
    async with AsyncExitStack() as stack:
        members = await stack.enter_async_context(registry.connect(RegistrySection(endpoints=(endpoint,)), "legato"))
        connected: dict[str, Worker] = {}

        async def find(without: Container[str]) -> list[Worker]:
            for member in await _announced(members, process, address, count, without):
                if member.id not in connected:
                    worker_channel = await stack.enter_async_context(rpc.channel(member.address))
                    connected[member.id] = Worker(member, worker_pb2_grpc.WorkerServiceStub(worker_channel))
            return [worker for worker in connected.values() if worker.member.id not in without]

        pool_process = _process(pool_command, environment, directory / "pool.log")
        channel = await stack.enter_async_context(rpc.channel(f"unix:{directory}/kv/pool.sock"))
        stub = kvpool_pb2_grpc.KVPoolServiceStub(channel)
        made = Host(name, address, directory, stub, list[Worker](), pool_process, pool_command, environment, find)
        stack.push_async_callback(_stop_pool, made)
        await made.status()
        worker_environment = {**environment, **({} if pooled else {"LEGATO_KVPOOL__ENABLED": "false"})}
        process = _process(worker_command, worker_environment, directory / "worker.log")
        stack.push_async_callback(_stop, process)
        if wait:
            await made.ready()
        yield made


async def _announced(
    members: Registry, process: "subprocess.Popen[bytes]", address: str, count: int, without: Container[str]
) -> list[Member]:
    """The host's workers but those with these ids, once there are so many."""
    async with asyncio.timeout(READY_SECONDS), aclosing(members.watch("worker")) as snapshots:
        async for workers in snapshots:
            own = [
                member
                for member in workers.values()
                if member.address.startswith(f"{address}:") and member.id not in without
            ]
            if len(own) == count:
                return own
            assert process.poll() is None, "the worker process ended"
    raise AssertionError("a watch has no end")


def _process(command: Sequence[str], environment: Mapping[str, str], log: Path) -> "subprocess.Popen[bytes]":
    with log.open("ab") as sink:
        return subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)


async def _stop_pool(host: Host) -> None:
    await _stop(host.pool_process)


async def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(20):
            await exited(process.pid)
    except TimeoutError:
        process.kill()
    await asyncio.to_thread(process.wait)
