"""Stacks for the end-to-end tests. Each is started once and shared by the tests that do no harm to it."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pytest

from services.local.spawn import Stack, spawn

MODEL = Path(__file__).parents[2] / "models" / "tiny-llama"

SMALL: dict[str, Any] = {
    "gateway.http_port": 0,
    "gateway.port": 0,
    "worker.model": "tiny",
    "worker.model_path": str(MODEL),
}
"""Settings of every stack here: any port, the tiny model."""
SIMULATED: dict[str, Any] = {**SMALL, "worker.engine": "simulated", "worker.count": 2, "simulated.profile": "tiny-cpu"}
VLLM: dict[str, Any] = {
    **SMALL,
    "worker.engine": "vllm",
    "worker.count": 2,
    "worker.max_num_seqs": 8,
    "worker.max_model_len": 4096,
}


@dataclass(frozen=True)
class Direct:
    """vLLM without Legato, in a process of its own."""

    questions: IO[str]
    answers: IO[str]

    def answer(self, prompts: list[list[int]], max_tokens: int) -> list[tuple[int, ...]]:
        """Their greedy continuations. Blocks, the first time until vLLM has started."""
        self.questions.write(json.dumps({"prompts": prompts, "max_tokens": max_tokens}) + "\n")
        self.questions.flush()
        answer = self.answers.readline()
        assert answer, "vLLM ended without an answer"
        return [tuple(ids) for ids in json.loads(answer)]


def needs_vllm() -> None:
    """Skip, or fail in CI, where vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("vLLM is not installed")


@contextmanager
def running(overrides: Mapping[str, object], output: Path, *flags: str) -> Generator[Stack]:
    """A stack for the length of the context; it must stop cleanly."""
    stack = spawn(flags, overrides, output)
    try:
        yield stack
    finally:
        status = stack.stop()
    assert status == 0, output.read_text(encoding="utf-8", errors="replace")[-3000:]


@pytest.fixture(scope="session")
def simulated_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with running(SIMULATED, tmp_path_factory.mktemp("simulated") / "log") as stack:
        yield stack


@pytest.fixture(scope="session")
def vllm_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    needs_vllm()
    with running(VLLM, tmp_path_factory.mktemp("vllm") / "log") as stack:
        yield stack


@pytest.fixture(scope="session")
def direct(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Direct]:
    """It starts beside whatever else a test starts: who wants both asks for this one first."""
    needs_vllm()
    command = (sys.executable, "-m", "tests.e2e.direct", str(MODEL))
    log = tmp_path_factory.mktemp("direct") / "log"
    with (
        log.open("wb") as errors,
        subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        yield Direct(process.stdin, process.stdout)
    assert process.returncode == 0, log.read_text(encoding="utf-8", errors="replace")[-3000:]
