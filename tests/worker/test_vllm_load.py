"""The load that vLLM's steps add up to."""

import os

import pytest

from legato.v1 import worker_pb2

pytestmark = pytest.mark.filterwarnings("ignore")  # importing torch and vLLM warns of their own affairs


@pytest.fixture(autouse=True)
def vllm() -> None:
    if os.environ.get("CI") != "true":
        pytest.importorskip("vllm", reason="vLLM is not installed")


def test_a_listener_that_fails_does_not_end_the_output_handler() -> None:
    from services.worker.vllm_engine.load import LoadLogger

    told: list[worker_pb2.Load] = []

    def fail(load: worker_pb2.Load) -> None:
        told.append(load)
        raise RuntimeError("as the test said")

    LoadLogger(fail).record(None, None)
    assert len(told) == 1
