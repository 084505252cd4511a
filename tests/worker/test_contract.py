"""What the engine uses of vLLM beyond its documented API is still there, by name and by signature."""

import importlib
import inspect
import os
from typing import Any

import pytest

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore"),  # importing torch and vLLM warns of their own affairs
]

PARAMETERS = {
    "vllm.v1.engine.async_llm:AsyncLLM.from_vllm_config": {"vllm_config", "stat_loggers", "disable_log_stats"},
    "vllm.v1.engine.async_llm:AsyncLLM.generate": {"prompt", "sampling_params", "request_id", "priority"},
    "vllm.v1.engine.async_llm:AsyncLLM.shutdown": {"timeout"},
    "vllm.v1.metrics.loggers:StatLoggerBase.record": {"scheduler_stats", "iteration_stats", "engine_idx"},
    "vllm.inputs.engine:tokens_input": {"prompt_token_ids", "cache_salt"},
    "vllm.parser.parser_manager:ParserManager.get_parser": {
        "tool_parser_name",
        "reasoning_parser_name",
        "enable_auto_tools",
        "tool_strict_level",
        "tokenizer",
    },
    "vllm.parser.abstract_parser:Parser.parse_delta": {
        "delta_text",
        "delta_token_ids",
        "request",
        "prompt_token_ids",
        "finished",
    },
    "vllm.parser.abstract_parser:Parser.adjust_request": {"request"},
    "vllm.parser.abstract_parser:Parser.count_reasoning_tokens": {"token_ids"},
}

FIELDS = {
    "vllm.v1.metrics.stats:SchedulerStats": {
        "num_running_reqs",
        "num_waiting_reqs",
        "num_skipped_waiting_reqs",
        "kv_cache_usage",
    },
    "vllm.v1.metrics.stats:RequestStateStats": {"queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts"},
    "vllm.v1.metrics.stats:FinishedRequestStats": {"num_prompt_tokens", "num_cached_tokens", "prefill_time"},
    "vllm.v1.metrics.stats:PromptTokenStats": {"total", "cached_tokens"},
    "vllm.config.kv_events:KVEventsConfig": {"enable_kv_cache_events", "publisher", "endpoint"},
    "vllm.config.structured_outputs:StructuredOutputsConfig": {"backend", "disable_any_whitespace"},
    "vllm.sampling_params:StructuredOutputsParams": {"json", "json_object", "regex", "grammar", "choice"},
    "vllm.engine.arg_utils:AsyncEngineArgs": {
        "kv_cache_memory_bytes",
        "scheduling_policy",
        "prefix_caching_hash_algo",
        "kv_events_config",
        "distributed_executor_backend",
        "use_tqdm_on_load",
    },
}


@pytest.fixture(scope="module", autouse=True)
def vllm() -> None:
    if os.environ.get("CI") != "true":
        pytest.importorskip("vllm", reason="vLLM is not installed")


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_a_function_takes_what_we_pass(name: str) -> None:
    assert PARAMETERS[name] <= set(inspect.signature(_find(name)).parameters)


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_a_record_has_what_we_read(name: str) -> None:
    assert set(inspect.signature(_find(name)).parameters) >= FIELDS[name]


def test_a_step_tells_what_the_load_is_made_of() -> None:
    from vllm.v1.metrics.stats import IterationStats

    step = IterationStats()
    assert step.num_preempted_reqs == step.num_generation_tokens == step.prompt_token_stats.total == 0
    assert step.inter_token_latencies_iter == step.finished_requests == []


def test_kv_events_carry_integers() -> None:
    import msgspec
    from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch

    from services.worker.vllm_engine.cache import report

    stored = BlockStored([1, 2, 2**64 - 1], None, [], 32, None, "GPU", None)
    batch = KVEventBatch(ts=0.0, events=[stored, BlockRemoved([2], "GPU")])
    batch = msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=KVEventBatch)
    told: list[tuple[list[int], list[int], bool]] = []
    report(batch, lambda stored, removed, reset: told.append((list(stored), list(removed), reset)))
    report(
        KVEventBatch(ts=0.0, events=[stored, AllBlocksCleared()]),
        lambda stored, removed, reset: told.append((list(stored), list(removed), reset)),
    )
    assert told == [([1, 2**64 - 1], [2], False), ([], [], True)]


def _find(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found
