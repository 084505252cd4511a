"""One vLLM engine over two hosts, each with half of every layer."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from legato.v1 import call_pb2
from services.common import config
from tests.servers.netns import Neighbour, neighbour
from tests.worker.vllm_worker import Worker, children, client, needs_vllm_cpu, vllm_worker

pytestmark = [pytest.mark.slow, pytest.mark.vllm, pytest.mark.timeout(300)]

PORT = 29610
COMMON: Final[dict[str, Any]] = {"dtype": "float32", "max_model_len": 4096}
"""float32, so that a sum of two halves rounds to the same token."""
HALVED: Final[dict[str, Any]] = {**COMMON, "tensor_parallel_size": 2, "num_nodes": 2}
PROMPT = list(range(10, 90))
GREEDY = call_pb2.Sampling(temperature=0, max_tokens=40, ignore_eos=True)


@contextmanager
def other_node(host: Neighbour, model_path: Path) -> Generator[int]:
    """The engine's second half, beside us; yields the pid of what keeps it running."""
    own = {"model_path": str(model_path), **HALVED, "node_rank": 1, "head_address": f"{host.own_address}:{PORT}"}
    given = {"cluster.host": host.address, **{f"worker.{name}": value for name, value in own.items()}}
    environment = config.environment(given)
    process = subprocess.Popen((*host.enter, sys.executable, "-m", "services.worker"), env=environment)
    try:
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@asynccontextmanager
async def spread(host: Neighbour, model_path: Path) -> AsyncGenerator[Worker]:
    """The engine's head on this host, when both halves are up."""
    address = f"{host.own_address}:{PORT}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEGATO_CLUSTER__HOST", host.own_address)
        async with vllm_worker(model_path, **HALVED, head_address=address) as worker:
            yield worker


async def said(worker: Worker) -> list[int]:
    async with client(worker) as calls:
        whole = await calls.whole(prompt_token_ids=PROMPT, sampling=GREEDY)
    return list(whole.token_ids)


async def test_says_what_an_engine_on_one_host_says_and_outlives_the_death_of_either_half(model_path: Path) -> None:
    needs_vllm_cpu()
    async with vllm_worker(model_path, **COMMON) as alone:
        expected = await said(alone)
    with neighbour() as host, other_node(host, model_path) as keeper:
        async with spread(host, model_path) as worker:
            assert await said(worker) == expected
            os.kill(children(worker.pid)[0], signal.SIGKILL)  # who attends to the other half
            worker = await worker.successor()
            assert await said(worker) == expected
            (half,) = children(keeper)
            os.kill(half, signal.SIGKILL)
            worker = await worker.successor()
            assert await said(worker) == expected
            os.kill(children(worker.pid)[-1], signal.SIGKILL)  # its EngineCore
            worker = await worker.successor()
            assert await said(worker) == expected
