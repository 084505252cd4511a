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


def test_tokens_that_were_loaded_say_nothing_about_prefill_speed() -> None:
    from vllm.v1.engine import FinishReason
    from vllm.v1.metrics.stats import FinishedRequestStats, IterationStats

    from services.worker.vllm_engine.load import LoadLogger

    def step(num_cached_tokens: int) -> IterationStats:
        made = IterationStats()
        made.finished_requests.append(
            FinishedRequestStats(
                finish_reason=FinishReason.STOP,
                num_prompt_tokens=1000,
                num_cached_tokens=num_cached_tokens,
                prefill_time=0.1,
            )
        )
        return made

    logger = LoadLogger(lambda _: None)
    logger.record(None, step(960))
    assert logger.load.prefill_tokens_per_second == 0
    logger.record(None, step(500))
    assert logger.load.prefill_tokens_per_second == pytest.approx(5000)
