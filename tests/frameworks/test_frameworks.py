"""Agents of two tools, written for public frameworks, run on Legato changed by environment variables only.

The packages are the real ones, in an environment of their own (`make frameworks`), each agent in a process. The stack
is real too, but for the engine, which is simulated and uses its tools as it is told.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import legato
from legato.cluster import ProgramStatus
from services.common.config import ClusterSection, KVPoolSection, RegistrySection
from services.common.registry.embedded import serve_embedded
from services.gateway import service as gateways
from services.gateway.config import GatewaySection
from services.gateway.config import Settings as GatewaySettings
from services.scheduler import service as schedulers
from services.scheduler.config import Settings as SchedulerSettings
from services.worker import service as workers
from services.worker import tiny_model
from services.worker.config import Settings as WorkerSettings
from services.worker.config import WorkerSection
from services.worker.simulated.config import SimulatedSection
from tests.frameworks.engine import QUESTION, ToolUser
from tests.gateway.conftest import ready

ROOT = Path(__file__).parents[2]
FRAMEWORKS = ROOT / ".venv-frameworks"
PYTHON = FRAMEWORKS / "bin" / "python"
AGENTS = Path(__file__).parent / "agents"
AGENT_FILES = sorted(path.name for path in AGENTS.glob("*.py"))
MODEL = "gpt-4o-mini"
"""As the agents call it: a name that all frameworks know, so that none needs to be told what it can do."""
CALLS = 3
"""For one question: two that ask for tools, and the answer."""
QUESTIONS = (f"{QUESTION} how many red lamps are there?", f"{QUESTION} and how many green chairs?")
QUIET = {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TRACING_ENABLED": "false",
    "CREWAI_DISABLE_VERSION_CHECK": "true",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OTEL_SDK_DISABLED": "true",
}
"""Nothing is told to anybody else."""

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True)
class Stack:
    """Where a stack of one test can be reached."""

    address: str
    http: str
    client: legato.Client

    async def programs(self) -> Sequence[ProgramStatus]:
        return await self.client.programs(include_ended=True)


@pytest.fixture(scope="session")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "tiny-llama"
    tiny_model.make(path)
    return path


@pytest.fixture
async def stack(model_path: Path) -> AsyncIterator[Stack]:
    if not (FRAMEWORKS / ".installed").exists():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("no frameworks: `make frameworks`")
    cluster = ClusterSection(name="frameworks", drain_seconds=0.5)
    worker = WorkerSection(engine="simulated", model=MODEL, model_path=str(model_path))
    simulated = SimulatedSection(mean_output_tokens=24, speed=4)
    async with AsyncExitStack() as opened:
        registry = RegistrySection(endpoints=(await opened.enter_async_context(serve_embedded()),))
        await opened.enter_async_context(schedulers.running(SchedulerSettings(cluster=cluster, registry=registry)))
        settings = WorkerSettings(
            cluster=cluster, registry=registry, worker=worker, simulated=simulated, kvpool=KVPoolSection(enabled=False)
        )
        await opened.enter_async_context(workers.running(settings, ToolUser(worker, simulated)))
        door = GatewaySection(http_port=0, port=0)
        gateway = await opened.enter_async_context(
            gateways.running(GatewaySettings(cluster=cluster, registry=registry, gateway=door))
        )
        http = await opened.enter_async_context(aiohttp.ClientSession(f"http://{gateway.http_address}"))
        await ready(http)
        client = await opened.enter_async_context(legato.Client(gateway.address))
        yield Stack(gateway.address, gateway.http_address, client)


async def run(command: Sequence[str], folder: Path, **variables: str) -> tuple[dict[str, Any], str]:
    """What the agent reported, and its stderr."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI_", "LEGATO_"))}
    process = await asyncio.create_subprocess_exec(
        *command, env={**kept, **QUIET, "HOME": str(folder), **variables}, cwd=folder,
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(120):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, err.decode()[-3000:]
    return json.loads(out.splitlines()[-1]), err.decode()


def check_outcome(outcome: dict[str, Any], questions: Sequence[str]) -> None:
    assert outcome["tools_used"] == ["find_item", "count_stock"] * len(questions)
    assert len(outcome["answers"]) == len(questions)
    assert all(outcome["answers"])


@pytest.mark.parametrize("agent", AGENT_FILES)
async def test_a_run_is_one_program_by_its_url_and_headers(stack: Stack, agent: str, tmp_path: Path) -> None:
    legato_run = [sys.executable, "-m", "legato", "run", "--address", stack.address, "--http", stack.http, "--"]
    command = [*legato_run, str(PYTHON), str(AGENTS / agent), *QUESTIONS]
    outcome, err = await run(command, tmp_path, PYTHONPATH=str(ROOT))
    check_outcome(outcome, QUESTIONS)
    named = re.search(r"legato: program (\S+) at", err)
    assert named is not None, err
    [program] = await stack.programs()
    assert (program.program_id, program.num_finished) == (named[1], CALLS * len(QUESTIONS))
    assert program.ended is not None


@pytest.mark.parametrize("agent", AGENT_FILES)
async def test_a_run_is_one_program_by_what_its_calls_say(stack: Stack, agent: str, tmp_path: Path) -> None:
    # A second task of CrewAI is a new conversation, which holds the answer to the first inside a message of its own.
    questions = QUESTIONS[:1] if agent.startswith("crewai") else QUESTIONS
    command = [str(PYTHON), str(AGENTS / agent), *questions]
    outcome, _ = await run(command, tmp_path, OPENAI_BASE_URL=f"http://{stack.http}/v1", OPENAI_API_KEY="none")
    check_outcome(outcome, questions)
    [program] = await stack.programs()
    assert program.num_finished == CALLS * len(questions)


async def test_two_runs_of_one_agent_at_once_are_two_programs(stack: Stack, tmp_path: Path) -> None:
    command = [str(PYTHON), str(AGENTS / "autogen_agent.py")]
    variables = {"OPENAI_BASE_URL": f"http://{stack.http}/v1", "OPENAI_API_KEY": "none"}
    await asyncio.gather(*(run([*command, question], tmp_path, **variables) for question in QUESTIONS))
    assert [program.num_finished for program in await stack.programs()] == [CALLS, CALLS]
