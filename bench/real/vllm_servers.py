"""vLLM's own OpenAI servers, with the settings of our workers' engines, and routers before them."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp

from bench.stack import descendants
from services.worker.config import WorkerSection

_START_SECONDS = 300.0
_STOP_SECONDS = 20.0
_LOOK_SECONDS = 0.5
_NICENESS = 10
"""As services/worker/zygote.py has it: an engine on the processor stands for a GPU."""
_ENVIRONMENT = {
    # What services/worker/vllm_engine/environment.py sets, so that both run the same engine in the same way.
    "OMP_NUM_THREADS": "1",
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


class NotReady(Exception):
    """A process ended, or was not ready in time; the message holds the end of its output."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@asynccontextmanager
async def servers(count: int, worker: WorkerSection, stream_interval: int, logs: Path) -> AsyncGenerator[list[str]]:
    """So many servers with the engine of these settings; their base URLs, without /v1."""
    async with AsyncExitStack() as stack:
        urls: list[str] = []
        processes: list[subprocess.Popen[bytes]] = []
        for number in range(count):
            port = free_port()
            arguments = ["-m", "vllm.entrypoints.launchers.api_server.entry", *_arguments(worker, stream_interval)]
            command = [sys.executable, *arguments, "--host", "127.0.0.1", "--port", str(port)]
            log = logs / f"vllm-{number}.log"
            processes.append(await stack.enter_async_context(process(command, log, _ENVIRONMENT)))
            urls.append(f"http://127.0.0.1:{port}")
        for number, url in enumerate(urls):
            await ready(f"{url}/health", processes[number], logs / f"vllm-{number}.log")
        for started in processes:
            for pid in descendants(started.pid) - {started.pid}:
                os.setpriority(os.PRIO_PROCESS, pid, _NICENESS)
        yield urls


def _arguments(worker: WorkerSection, stream_interval: int) -> list[str]:
    named: dict[str, object] = {
        "model": worker.model_path,
        "served-model-name": worker.model,
        "max-num-seqs": worker.max_num_seqs,
        "max-num-batched-tokens": worker.max_num_batched_tokens,
        "max-model-len": worker.max_model_len,
        "block-size": worker.block_size,
        "kv-cache-memory-bytes": worker.kv_cache_bytes,
        "distributed-executor-backend": "uni",
        "prefix-caching-hash-algo": "sha256_cbor",
        "stream-interval": stream_interval,
    }
    flags = ["--enforce-eager", "--enable-prompt-tokens-details", "--disable-uvicorn-access-log"]
    return [*(word for name, value in named.items() for word in (f"--{name}", str(value))), *flags]


@asynccontextmanager
async def process(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
) -> AsyncGenerator[subprocess.Popen[bytes]]:
    """A child process, ended with its whole process group when left."""
    child = _start(command, log, {**os.environ, **(environment or {})})
    try:
        yield child
    finally:
        await asyncio.to_thread(_stop, child)


def _start(command: Sequence[str], log: Path, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as sink:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Gracefully, then by force, with whatever it left behind."""
    child.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_STOP_SECONDS)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


async def ready(url: str, child: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the URL answers. Raises NotReady."""
    async with aiohttp.ClientSession() as client:
        try:
            async with asyncio.timeout(_START_SECONDS):
                while True:
                    try:
                        async with client.get(url) as response:
                            if response.status == 200:
                                return
                    except aiohttp.ClientError:
                        pass
                    if child.poll() is not None:
                        raise NotReady(f"it ended with status {child.returncode}; the end of {log}:\n{_tail(log)}")
                    await asyncio.sleep(_LOOK_SECONDS)  # a foreign process has no other way to say that it is ready
        except TimeoutError:
            raise NotReady(f"not ready in {_START_SECONDS:.0f} s; the end of {log}:\n{_tail(log)}") from None


def _tail(path: Path, num_lines: int = 30) -> str:
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-num_lines:])
