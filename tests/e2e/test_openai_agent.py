"""Agents of two tools, written for the openai package alone, run on Legato changed by environment variables only."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.local.spawn import Stack

AGENTS = Path(__file__).parent / "agents"
AGENT_FILES = sorted(path.name for path in AGENTS.glob("*.py"))

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(180)]


@pytest.mark.parametrize("agent", AGENT_FILES)
def test_the_agent_finishes_its_task(vllm_stack: Stack, agent: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENAI_")} | {
        "OPENAI_BASE_URL": vllm_stack.base_url,
        "OPENAI_API_KEY": "none",
        "OPENAI_CUSTOM_HEADERS": f"x-legato-program-id: {agent}",
    }
    done = subprocess.run(
        [sys.executable, str(AGENTS / agent)], env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["tools_used"], outcome
    assert outcome["finish_reason"] in ("stop", "length")
    assert outcome["cached_tokens"] > 0, "the second turn must find the first one's blocks"
