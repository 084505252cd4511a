"""vLLM's connector to the KV pool. It only sorts: vLLM makes one instance where requests are scheduled and one where
the cache is; the work is done in services/worker/kv.

On a CPU this is imported before the EngineCore is forked: it starts nothing until it is used.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorRole,
    KVConnectorWorkerMetadata,
    SupportsHMA,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorStats
from vllm.v1.metrics.cache_hit_source import CacheHitSource

from services.worker.kv.config import from_extra
from services.worker.kv.scheduler_side import SchedulerSide
from services.worker.kv.transfer import Handshake, Stats, Step
from services.worker.kv.worker_side import WorkerSide

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.forward_context import ForwardContext
    from vllm.v1.attention.backend import AttentionMetadata
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.kv_cache_interface import KVCacheConfig
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request


class LegatoConnector(KVConnectorBase_V1, SupportsHMA):
    """See `KVConnectorBase_V1` for what each method is for and when it is called."""

    _cache_hit_source = CacheHitSource.HOST

    def __init__(self, vllm_config: "VllmConfig", role: KVConnectorRole, kv_cache_config: "KVCacheConfig") -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        settings = from_extra(self._kv_transfer_config.kv_connector_extra_config)
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        if role is KVConnectorRole.SCHEDULER:
            self._scheduler = SchedulerSide(vllm_config, settings)
        else:
            self._worker = WorkerSide(vllm_config, kv_cache_config, settings)

    @property
    def requires_kv_delivery(self) -> bool:
        return False  # what is not saved is computed

    # Where requests are scheduled.

    def set_xfer_handshake_metadata_pp_aware(
        self, metadata: dict[tuple[int, int], KVConnectorHandshakeMetadata]
    ) -> None:
        for handshake in metadata.values():
            self._side.introduce(cast(Handshake, handshake).namespace)

    def bind_gpu_block_pool(self, gpu_block_pool: "BlockPool") -> None:
        self._side.bind(gpu_block_pool)

    def on_new_request(self, request: "Request") -> None:
        self._side.begin(request)

    def get_num_new_matched_tokens(self, request: "Request", num_computed_tokens: int) -> tuple[int | None, bool]:
        return self._side.num_matched_tokens(request, num_computed_tokens)

    def update_state_after_alloc(self, request: "Request", blocks: "KVCacheBlocks", num_external_tokens: int) -> None:
        self._side.allocated(request, blocks, num_external_tokens)

    def build_connector_meta(self, scheduler_output: "SchedulerOutput") -> KVConnectorMetadata:
        return self._side.step(scheduler_output)

    def update_connector_output(self, connector_output: "KVConnectorOutput") -> None:
        self._side.received(connector_output)

    def request_finished(self, request: "Request", block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        return self._side.finish(request, (block_ids,))

    def request_finished_all_groups(
        self, request: "Request", block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        return self._side.finish(request, block_ids)

    def has_pending_block_frees(self) -> bool:
        return self._side.blocks_come_free()

    def reset_cache(self) -> bool:
        return True  # nothing is kept here that could be wrong

    # Where the cache is.

    def register_kv_caches(self, kv_caches: Mapping[str, "torch.Tensor"]) -> None:
        self._cache.register_kv_caches(kv_caches)

    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata | None:
        return self._cache.handshake()

    def handle_preemptions(self, kv_connector_metadata: KVConnectorMetadata) -> None:
        self._cache.handle_preemptions(cast(Step, kv_connector_metadata))

    def start_load_kv(self, forward_context: "ForwardContext", **kwargs: Any) -> None:
        self._cache.start_load(cast(Step, self._get_connector_metadata()))

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass  # requests do not run before all their layers are there

    def save_kv_layer(
        self, layer_name: str, kv_layer: "torch.Tensor", attn_metadata: "AttentionMetadata", **kwargs: Any
    ) -> None:
        pass  # whole blocks are saved

    def wait_for_save(self) -> None:
        self._cache.save(cast(Step, self._get_connector_metadata()))

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:
        sent, received = self._cache.take_finished()
        return sent or None, received or None

    def get_block_ids_with_load_errors(self) -> set[int]:
        return self._cache.take_bad_blocks()

    def build_connector_worker_meta(self) -> KVConnectorWorkerMetadata | None:
        return self._cache.take_report()

    def get_kv_connector_stats(self) -> KVConnectorStats | None:
        return None if self._worker is None else self._worker.take_stats()

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KVConnectorStats | None:
        return Stats(data or {})

    def shutdown(self) -> None:
        if self._scheduler is not None:
            self._scheduler.close()
        if self._worker is not None:
            self._worker.close()

    @property
    def _side(self) -> SchedulerSide:
        assert self._scheduler is not None, "this is the scheduler's instance"
        return self._scheduler

    @property
    def _cache(self) -> WorkerSide:
        assert self._worker is not None, "this is the worker's instance"
        return self._worker
