"""The systems that are compared: each serves the OpenAI API from two engines of the same settings."""

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

import legato
from bench import stack
from bench.real.vllm_servers import free_port, process, ready, servers
from bench.real.workload import MAX_TOKENS
from services.worker.config import WorkerSection
from services.worker.simulated.cost import Profile

WORKERS = 2
STREAM_INTERVAL = 8
MODEL = Path("build/real/model")
"""The tiny model, wide."""
WORKER = WorkerSection(
    engine="vllm",
    model_path=str(MODEL),
    count=WORKERS,
    max_model_len=MAX_TOKENS,
    max_num_seqs=8,
    max_num_batched_tokens=512,
    kv_cache_bytes=12 << 20,
)
KV_TOKENS = 6112
"""What 12 MiB hold of the tiny model, less the block that vLLM keeps for itself."""
PEERS = Path(".venv-peers/bin")
"""Where `make peers` puts the routers: their dependencies are none of ours."""
_METRICS = {"vllm:num_requests_running": "num_running", "vllm:kv_cache_usage_perc": "kv_usage"}


@dataclass(frozen=True, slots=True)
class Load:
    """Of one engine, now."""

    num_running: float
    kv_usage: float
    """Share of its KV blocks that running calls hold."""


@dataclass(frozen=True, slots=True)
class System:
    """One that is up."""

    name: str
    base_url: str
    """Of its OpenAI API, ending in /v1."""
    look: Callable[[], Awaitable[list[Load]]]
    """The engines' load now."""
    session_header: str = ""
    """Under which it wants to hear of programs, beside Legato's own headers."""


def shared_settings() -> dict[str, object]:
    """Of a Legato stack with these engines. Without the KV pool, which plain vLLM has no counterpart of."""
    named = (
        "engine",
        "count",
        "model",
        "model_path",
        "max_model_len",
        "max_num_seqs",
        "max_num_batched_tokens",
        "kv_cache_bytes",
    )
    return {
        **{f"worker.{name}": getattr(WORKER, name) for name in named},
        "gateway.http_port": 0,
        "gateway.port": 0,
        "gateway.stream_interval": STREAM_INTERVAL,
        "kvpool.enabled": False,
        "telemetry.log_level": "warning",
    }


@asynccontextmanager
async def legato_stack(name: str, settings: Mapping[str, object], logs: Path) -> AsyncGenerator[tuple[System, str]]:
    """Legato with these settings beside the shared ones, and the address of its gRPC API."""
    async with (
        stack.running({**shared_settings(), **settings}, logs / f"{name}.log") as started,
        legato.Client(started.address) as client,
    ):

        async def look() -> list[Load]:
            return [Load(worker.num_running, worker.kv_usage) for worker in await client.workers()]

        yield System(name, started.base_url, look), started.address


@asynccontextmanager
async def routed(names: Sequence[str], profile: Profile, logs: Path) -> AsyncGenerator[list[System]]:
    """Two vLLM servers and these routers before them. Raises NotReady."""
    async with AsyncExitStack() as exits:
        urls = await exits.enter_async_context(servers(WORKERS, WORKER, STREAM_INTERVAL, logs))
        client = await exits.enter_async_context(aiohttp.ClientSession())

        async def look() -> list[Load]:
            return [await _load(client, url) for url in urls]

        systems: list[System] = []
        for name in names:
            port = free_port()
            command, log = _ROUTERS[name](urls, profile), logs / f"{name}.log"
            ports = ["--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(free_port())]
            child = await exits.enter_async_context(process([*command, *ports], log))
            await ready(f"http://127.0.0.1:{port}/v1/models", child, log)
            header = "x-session-id" if name == "vllm-router" else ""
            systems.append(System(name, f"http://127.0.0.1:{port}/v1", look, header))
        yield systems


def _vllm_router(urls: Sequence[str], profile: Profile) -> list[str]:
    """With program scheduling on, as its documentation recommends it (docs/program_scheduling.md): the global queue,
    the engines' KV capacity, and the cost models of this very machine instead of the reference's.

    `auto` takes the program from x-session-id; vLLM 0.32 refuses the nested field that is its first choice. Its
    interval and window are shortened as the workload's times are: calls here take tenths of a second.
    """
    per_token = (profile.linear(512) - profile.linear(1)) / 511e3
    per_pair = profile.attn_flops_per_pair / profile.attn_flops_per_second
    scheduling: Mapping[str, Any] = {
        "program_scheduling_enable_key": "auto",
        "global_queue": True,
        "token_capacity_per_target": KV_TOKENS,
        "metrics_interval_seconds": 0.25,
        "stats_window_size": 30,
        "prefill_cost_model": {
            "intercept_seconds": profile.step_seconds(1, 1, 0, 0),
            "linear_seconds_per_1k_tokens": 1e3 * per_token,
            "quadratic_seconds_per_1k_tokens_squared": 1e6 * per_pair / 2,
        },
        "decode_throughput_model": {
            "fixed_step_seconds": (profile.t0_ms + profile.head_ms) / 1e3,
            "batch_step_seconds_per_request": (profile.seq_ms + profile.linear(8) / 8) / 1e3,
            "context_step_seconds_per_token": profile.ctx_ms_per_token / 1e3,
        },
    }
    flags = ["--enable-program-scheduling", "--program-scheduling-config-json", json.dumps(scheduling)]
    flags += ["--policy", "consistent_hash", "--worker-startup-check-interval", "1", "--log-level", "warning"]
    return [str(PEERS / "vllm-router"), "--worker-urls", *urls, *flags]


def _sglang_router(urls: Sequence[str], profile: Profile) -> list[str]:
    """Cache-aware, its default. Its thresholds of balance are for hundreds of calls; here there are tens."""
    flags = ["--policy", "cache_aware", "--balance-abs-threshold", "4", "--balance-rel-threshold", "1.5"]
    flags += ["--worker-startup-check-interval", "1", "--log-level", "warn"]
    return [str(PEERS / "sglang-router"), "launch", "--worker-urls", *urls, *flags]


_ROUTERS = {"vllm-router": _vllm_router, "sglang-router": _sglang_router}


async def _load(client: aiohttp.ClientSession, url: str) -> Load:
    async with client.get(f"{url}/metrics") as response:
        text = await response.text()
    found: dict[str, float] = {}
    for line in text.splitlines():
        name = _METRICS.get(line.partition("{")[0])
        if name is not None:
            found[name] = float(line.rpartition(" ")[2])
    return Load(**found)
