"""What the engine uses of vLLM beyond its documented API is still there, by name and by signature."""

import importlib
import inspect
import os
from pathlib import Path
from typing import Any, cast

import pytest

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.filterwarnings("ignore"),  # importing torch and vLLM warns of their own affairs
]

_CONNECTOR = "vllm.distributed.kv_transfer.kv_connector.v1.base"

PARAMETERS: dict[str, set[str]] = {
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
    f"{_CONNECTOR}:KVConnectorBase_V1.__init__": {"vllm_config", "role", "kv_cache_config"},
    f"{_CONNECTOR}:KVConnectorBase_V1.set_xfer_handshake_metadata_pp_aware": {"metadata"},
    f"{_CONNECTOR}:KVConnectorBase_V1.get_handshake_metadata": set(),
    f"{_CONNECTOR}:KVConnectorBase_V1.bind_gpu_block_pool": {"gpu_block_pool"},
    f"{_CONNECTOR}:KVConnectorBase_V1.on_new_request": {"request"},
    f"{_CONNECTOR}:KVConnectorBase_V1.get_num_new_matched_tokens": {"request", "num_computed_tokens"},
    f"{_CONNECTOR}:KVConnectorBase_V1.update_state_after_alloc": {"request", "blocks", "num_external_tokens"},
    f"{_CONNECTOR}:KVConnectorBase_V1.build_connector_meta": {"scheduler_output"},
    f"{_CONNECTOR}:KVConnectorBase_V1.update_connector_output": {"connector_output"},
    f"{_CONNECTOR}:SupportsHMA.request_finished_all_groups": {"request", "block_ids"},
    f"{_CONNECTOR}:KVConnectorBase_V1.has_pending_block_frees": set(),
    f"{_CONNECTOR}:KVConnectorBase_V1.reset_cache": set(),
    f"{_CONNECTOR}:KVConnectorBase_V1.register_kv_caches": {"kv_caches"},
    f"{_CONNECTOR}:KVConnectorBase_V1.handle_preemptions": {"kv_connector_metadata"},
    f"{_CONNECTOR}:KVConnectorBase_V1.start_load_kv": {"forward_context"},
    f"{_CONNECTOR}:KVConnectorBase_V1.wait_for_save": set(),
    f"{_CONNECTOR}:KVConnectorBase_V1.get_finished": {"finished_req_ids"},
    f"{_CONNECTOR}:KVConnectorBase_V1.get_block_ids_with_load_errors": set(),
    f"{_CONNECTOR}:KVConnectorBase_V1.build_connector_worker_meta": set(),
    f"{_CONNECTOR}:KVConnectorBase_V1.get_kv_connector_stats": set(),
    "vllm.v1.core.block_pool:BlockPool.touch": {"blocks"},
    "vllm.v1.core.block_pool:BlockPool.free_blocks": {"ordered_blocks"},
    "vllm.v1.core.block_pool:BlockPool.get_num_free_blocks": set(),
    "vllm.v1.core.kv_cache_manager:KVCacheBlocks.get_block_ids": set(),
    "vllm.v1.core.sched.output:KVConnectorBlockState.get_block_ids": {"req_id"},
    "vllm.v1.core.sched.scheduler:Scheduler.schedule": set(),
    "vllm.v1.core.sched.scheduler:Scheduler._preempt_request": {"request", "timestamp", "drop_stale_output"},
    "vllm.v1.core.sched.scheduler:Scheduler._free_request": {"request"},
    "vllm.v1.core.sched.scheduler:Scheduler._request_blocks_can_be_freed": {"request"},
    "vllm.v1.core.sched.scheduler:Scheduler._is_blocked_waiting_status": {"status"},
    "vllm.v1.core.sched.request_queue:PriorityRequestQueue.remove_request": {"request"},
    "vllm.v1.core.sched.request_queue:PriorityRequestQueue.add_request": {"request"},
    "vllm.v1.core.kv_cache_manager:KVCacheManager.get_computed_blocks": {"request"},
    "vllm.v1.core.kv_cache_manager:KVCacheManager.get_blocks": {"request_id"},
    "vllm.v1.engine.core_client:AsyncMPClient.call_utility_async": {"method", "args"},
    "vllm.v1.attention.backends.cpu_attn:_get_attn_isa": {"dtype", "block_size", "head_size"},
    "vllm.config:get_layers_from_vllm_config": {"vllm_config", "layer_type", "layer_names"},
}

FIELDS = {
    "vllm.v1.metrics.stats:SchedulerStats": {
        "num_running_reqs",
        "num_waiting_reqs",
        "num_skipped_waiting_reqs",
        "kv_cache_usage",
        "kv_connector_stats",
    },
    "vllm.v1.metrics.stats:RequestStateStats": {"queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts"},
    "vllm.v1.metrics.stats:FinishedRequestStats": {"num_prompt_tokens", "num_cached_tokens", "prefill_time"},
    "vllm.v1.metrics.stats:PromptTokenStats": {"total", "cached_tokens"},
    "vllm.config.kv_events:KVEventsConfig": {"enable_kv_cache_events", "publisher", "endpoint"},
    "vllm.config.structured_outputs:StructuredOutputsConfig": {"backend", "disable_any_whitespace"},
    "vllm.sampling_params:StructuredOutputsParams": {"json", "json_object", "regex", "grammar", "choice"},
    "vllm.config:KVTransferConfig": {
        "kv_connector",
        "kv_connector_module_path",
        "kv_role",
        "kv_load_failure_policy",
        "kv_connector_extra_config",
    },
    "vllm.v1.core.sched.output:SchedulerOutput": {
        "scheduled_new_reqs",
        "scheduled_cached_reqs",
        "num_scheduled_tokens",
        "preempted_req_ids",
        "kv_connector_block_state",
    },
    "vllm.v1.core.sched.output:NewRequestData": {"req_id", "num_computed_tokens"},
    "vllm.v1.core.sched.output:CachedRequestData": {"req_ids", "num_computed_tokens", "new_block_ids"},
    "vllm.v1.outputs:KVConnectorOutput": {"finished_sending", "finished_recving", "kv_connector_worker_meta"},
    "vllm.v1.kv_cache_interface:KVCacheConfig": {"kv_cache_groups", "kv_cache_layout", "hash_block_size"},
    "vllm.v1.kv_cache_interface:KVCacheGroupSpec": {"layer_names", "kv_cache_spec"},
    "vllm.engine.arg_utils:AsyncEngineArgs": {
        "kv_transfer_config",
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


def test_the_connector_has_what_vllm_asks_of_one() -> None:
    from vllm.distributed.kv_transfer.kv_connector.v1 import supports_hma
    from vllm.utils.func_utils import supports_kw

    from services.worker.kv_connector import LegatoConnector

    assert not LegatoConnector.__abstractmethods__
    assert supports_hma(LegatoConnector)
    assert supports_kw(LegatoConnector, "kv_cache_config")


def test_a_request_has_what_the_connector_reads() -> None:
    from vllm import SamplingParams
    from vllm.v1.core.kv_cache_utils import KVCacheBlock
    from vllm.v1.request import Request

    params = SamplingParams(extra_args={"kv_transfer_params": {"program_id": "p"}})
    request = Request("r", [1, 2, 3], params, None)
    assert (request.request_id, request.num_tokens, request.num_prompt_tokens) == ("r", 3, 3)
    assert (request.num_computed_tokens, list(request.block_hashes)) == (0, [])
    assert request.kv_transfer_params == {"program_id": "p"}
    block = KVCacheBlock(7)
    assert (block.block_id, block.ref_cnt, block.block_hash) == (7, 0, None)


def test_the_scheduler_has_what_preemption_leans_on() -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    from services.worker.vllm_engine import scheduler

    assert scheduler.missing() == []
    source = inspect.getsource(Scheduler.__init__)
    for attribute in (
        "running: list",
        "waiting = create_request_queue",
        "kv_holding_waiting = create_request_queue",
        "requests: dict",
        "kv_cache_manager =",
        "kv_cache_config =",
        "block_size =",
        "max_num_active_reqs =",
        "num_waiting_for_streaming_input: int",
        "prev_step_scheduled_req_ids: set",
        "requires_kv_delivery =",
        "vllm_config =",
    ):
        assert f"self.{attribute}" in source, attribute


@pytest.mark.parametrize("able", [True, False])
def test_without_what_preemption_leans_on_vllm_schedules_by_itself(
    able: bool, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vllm.v1.core.sched.scheduler import Scheduler

    from services.common.config import KVPoolSection
    from services.worker.config import WorkerSection
    from services.worker.vllm_engine import arguments, scheduler

    if not able:
        monkeypatch.delattr(Scheduler, "_preempt_request")
    section = WorkerSection(model_path=str(model_path), preemption=True, quanta=(8, 16))
    config = arguments.configuration(section, KVPoolSection(), "ipc:///tmp/none")
    assert scheduler.chosen(config) is able
    assert config.scheduler_config.policy == "priority"
    if able:
        settings: Any = cast(Any, config).additional_config  # vLLM types it by half
        assert settings[scheduler.SETTINGS] == {"margin": 1, "min_tokens": 32, "quanta": (8, 16)}


def test_lost_blocks_are_computed_again() -> None:
    """Only plain attention in one group can be told block by block what was not loaded."""
    from vllm.v1.kv_cache_interface import FullAttentionSpec, MLAAttentionSpec, SlidingWindowSpec

    assert issubclass(MLAAttentionSpec, FullAttentionSpec)
    assert not issubclass(SlidingWindowSpec, FullAttentionSpec)


def _find(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = getattr(found, part)
    return found
