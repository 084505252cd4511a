"""From settings to vLLM's configuration."""

import logging

from vllm.config import KVTransferConfig, VllmConfig
from vllm.config.kv_events import KVEventsConfig
from vllm.config.structured_outputs import StructuredOutputsConfig
from vllm.engine.arg_utils import AsyncEngineArgs

from services.common.config import KVPoolSection
from services.worker.config import WorkerSection
from services.worker.kv.config import connector_config
from services.worker.kv.namespace import identity
from services.worker.preemption import Preemption
from services.worker.vllm_engine import scheduler
from services.worker.vllm_engine.environment import on_cpu

_log = logging.getLogger(__name__)

CPU_KV_CACHE_BYTES = 128 * 1024 * 1024


def configuration(section: WorkerSection, kvpool: KVPoolSection, events_endpoint: str) -> VllmConfig:
    """Raises what vLLM raises when model and settings do not fit: ValueError, OSError."""
    cpu = on_cpu()
    arguments = AsyncEngineArgs(
        model=section.model_path,
        served_model_name=section.model,
        max_num_seqs=section.max_num_seqs,
        max_num_batched_tokens=section.max_num_batched_tokens,
        block_size=section.block_size,
        kv_cache_memory_bytes=section.kv_cache_bytes or (CPU_KV_CACHE_BYTES if cpu else None),
        gpu_memory_utilization=section.gpu_memory_utilization,
        tensor_parallel_size=section.tensor_parallel_size,
        pipeline_parallel_size=section.pipeline_parallel_size,
        distributed_executor_backend="uni" if cpu and section.num_gpus == 1 else None,
        enforce_eager=cpu or section.enforce_eager,
        dtype=section.dtype,
        seed=section.seed,
        use_tqdm_on_load=False,
        scheduling_policy="priority",
        enable_prefix_caching=True,
        prefix_caching_hash_algo="sha256_cbor",
        kv_events_config=KVEventsConfig(enable_kv_cache_events=True, publisher="zmq", endpoint=events_endpoint),
        reasoning_parser=section.reasoning_parser,
        # A model that likes blanks would otherwise fill its JSON with them for ever.
        structured_outputs_config=StructuredOutputsConfig(backend="xgrammar", disable_any_whitespace=True),
    )
    if section.max_model_len:
        arguments.max_model_len = section.max_model_len
    if section.num_nodes > 1:
        _spread(arguments, section)
    elif kvpool.enabled:
        arguments.kv_transfer_config = _connector()
    config = arguments.create_engine_config(headless=section.node_rank > 0)
    if config.kv_transfer_config is not None:
        model, revision = identity(section.model_path, config.model_config.hf_config)
        config.kv_transfer_config.kv_connector_extra_config = connector_config(kvpool, model, revision).extra()
    if (preemption := section.preempting()) is not None:
        _preempt(config, preemption)
    return config


def _connector() -> KVTransferConfig:
    return KVTransferConfig(
        kv_connector="LegatoConnector",
        kv_connector_module_path="services.worker.kv_connector",
        kv_role="kv_both",
        kv_load_failure_policy="recompute",
    )


def _spread(arguments: AsyncEngineArgs, section: WorkerSection) -> None:
    """Over nodes that vLLM joins without Ray."""
    host, port = section.head
    arguments.distributed_executor_backend = "mp"
    arguments.nnodes, arguments.node_rank = section.num_nodes, section.node_rank
    arguments.master_addr, arguments.master_port = host, port + 1


def _preempt(config: VllmConfig, preemption: Preemption) -> None:
    """Have vLLM schedule with our class, if this vLLM has what it needs."""
    if lacking := scheduler.missing():
        _log.warning("no preemption: this vLLM has no %s", ", ".join(lacking))
        return
    chosen = config.scheduler_config
    chosen.scheduler_cls = scheduler.class_name(asynchronous=bool(chosen.async_scheduling))
    config.additional_config = scheduler.additional_config(preemption)
