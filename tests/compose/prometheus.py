"""Prometheus of compose.yaml: Debian's program in the place of its image."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp

from tests.compose import bed
from tests.compose.bed import Docker

PROCESSES = {"gateway": 1, "scheduler": 2, "workflow": 1, "kvpool": 1, "worker": 2}
_URL = f"http://{bed.THEIRS}:9090"
_STAND_IN = f"""
FROM {bed.BASE}
COPY prometheus /bin/
RUN install --directory --owner 65534 /prometheus
USER 65534
ENTRYPOINT ["/bin/prometheus"]
"""


@contextlib.asynccontextmanager
async def running(docker: Docker, folder: Path) -> AsyncGenerator[aiohttp.ClientSession]:
    """It scrapes the stack for the length of the context. The image is made in `folder`."""
    binary = shutil.which("prometheus") or bed.missing(
        "prometheus is not installed (Debian: apt-get install prometheus)"
    )
    shutil.copy(binary, folder)
    (folder / "Dockerfile").write_text(_STAND_IN, encoding="utf-8")
    docker.run("build", "--quiet", "--tag", "legato-test-prometheus", str(folder))
    docker = replace(docker, variables={**docker.variables, "PROMETHEUS_IMAGE": "legato-test-prometheus"})
    docker.compose("up", "--detach", "--no-deps", "prometheus")
    try:
        async with aiohttp.ClientSession(_URL, timeout=aiohttp.ClientTimeout(20)) as session:
            await _ready(session)
            yield session
    finally:
        docker.compose("rm", "--force", "--stop", "prometheus")


async def _ready(prometheus: aiohttp.ClientSession) -> None:
    """Wait until it answers queries: it listens before, and says 503."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(aiohttp.ClientConnectionError):
                async with prometheus.get("/-/ready") as response:
                    if response.ok:
                        return
            await asyncio.sleep(0.2)


async def ask(prometheus: aiohttp.ClientSession, path: str, **parameters: str) -> Any:
    async with prometheus.get(path, params=parameters) as response:
        told = await response.json()
    assert told["status"] == "success", told
    return told["data"]


async def shown(prometheus: aiohttp.ClientSession, query: str) -> None:
    """Wait until the query has a result. Prometheus tells only when it is asked."""
    async with asyncio.timeout(60):
        while True:
            if (await ask(prometheus, "/api/v1/query", query=query))["result"]:
                return
            await asyncio.sleep(1)


async def scraped(prometheus: aiohttp.ClientSession, num_processes: Mapping[str, int]) -> None:
    """Wait until so many processes of each service answer it."""
    for job, number in num_processes.items():
        await shown(prometheus, f'sum(up{{job="{job}"}}) == {number}')
