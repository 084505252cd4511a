"""The connector where the cache is: hands saves and loads to their threads and tells what became of them.

Every method is called once a step by the model runner and returns at once; only `handle_preemptions` may wait, for a
copy of a few MiB.
"""

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.worker.kv import client
from services.worker.kv.config import ConnectorConfig
from services.worker.kv.copy import Copies, CpuCopies
from services.worker.kv.loader import Loader
from services.worker.kv.namespace import namespace, usable
from services.worker.kv.saver import Saver
from services.worker.kv.transfer import Handshake, Loaded, Report, Stats, Step

if TYPE_CHECKING:
    import torch
    from vllm.config import VllmConfig
    from vllm.v1.kv_cache_interface import KVCacheConfig

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _LoadCounts:
    """Since the start."""

    loaded_blocks: int = 0
    failed_blocks: int = 0
    loaded_bytes: int = 0
    load_seconds: float = 0.0


class WorkerSide:
    """One rank's."""

    def __init__(self, config: "VllmConfig", kv_cache: "KVCacheConfig", settings: ConnectorConfig) -> None:
        self._config, self._kv_cache, self._settings = config, kv_cache, settings
        self._handshake: Handshake | None = None
        self._saver: Saver | None = None
        self._loader: Loader | None = None
        self._bad_blocks: set[int] = set()
        self._loaded: dict[str, Loaded] = {}
        self._load_counts = _LoadCounts()
        self._told: dict[str, float] = {}
        self._num_told = 0

    def register_kv_caches(self, kv_caches: Mapping[str, "torch.Tensor"]) -> None:
        """The cache is set up. Without a handshake the connector does nothing."""
        if not usable(self._config, self._kv_cache) or not self._settings.revision:
            _log.warning("the KV of this model is not shared")
            return
        num_shards = self._config.parallel_config.tensor_parallel_size
        try:
            copies = _copies(kv_caches, num_shards)
        except ValueError as error:
            _log.warning("the KV of this model is not shared: %s", error)
            return
        made = namespace(
            self._config, self._kv_cache, self._settings.pool_model, self._settings.revision, copies.shard_bytes
        )
        self._handshake = Handshake(made.SerializeToString())
        pool = client.shared(self._settings.address, made)
        shard = self._config.parallel_config.rank % num_shards
        self._mark = copies.mark
        self._saver = Saver(copies, pool, shard, num_shards, self._settings.reservation_seconds)
        self._loader = Loader(copies, pool.arena, shard, num_shards)

    def handshake(self) -> Handshake | None:
        """For the scheduler's side."""
        return self._handshake

    def handle_preemptions(self, step: Step) -> None:
        """Blocks are about to be overwritten."""
        if self._saver is not None and step.preempted:
            self._saver.flush(step.preempted)

    def start_load(self, step: Step) -> None:
        """Begin this step's loads."""
        if self._loader is not None:
            for load in step.loads:
                self._loader.submit(load)

    def save(self, step: Step) -> None:
        """This step's forward pass has been given to the device: begin its saves."""
        if self._saver is None:
            return
        if step.urgent:
            self._saver.give_up(step.urgent)
        if step.saves:
            self._saver.submit(step.saves, self._mark())
        self._saver.hold(step.held)

    def take_finished(self) -> tuple[set[str], set[str]]:
        """(requests whose saves are done with, requests that were loaded), since the last time."""
        if self._saver is None or self._loader is None:
            return set(), set()
        received: set[str] = set()
        for load, loaded in self._loader.take():
            received.add(load.request_id)
            self._loaded[load.lease_id] = loaded
            self._load_counts.loaded_blocks += loaded.num_good
            self._load_counts.failed_blocks += len(load.block_ids) - loaded.num_good
            self._load_counts.loaded_bytes += loaded.num_bytes
            self._load_counts.load_seconds += loaded.copy_seconds
            self._bad_blocks.update(load.block_ids[loaded.num_good :])
        return self._saver.take_released(), received

    def take_bad_blocks(self) -> set[int]:
        """Blocks that were not loaded, of the requests told last."""
        bad, self._bad_blocks = self._bad_blocks, set()
        return bad

    def take_report(self) -> Report | None:
        """About the loads that ended."""
        loaded, self._loaded = self._loaded, {}
        return Report(loaded) if loaded else None

    def take_stats(self) -> Stats | None:
        """What was done since the last time."""
        if self._saver is None:
            return None
        saves, loads = self._saver.counts, self._load_counts
        num_ended = saves.num_ended + loads.loaded_blocks + loads.failed_blocks
        if num_ended == self._num_told:  # as in nearly every step
            return None
        now = dataclasses.asdict(saves) | dataclasses.asdict(loads)
        done = {name: count - self._told.get(name, 0) for name, count in now.items()}
        self._told, self._num_told = now, num_ended
        return Stats(done)

    def close(self) -> None:
        """Stop the threads."""
        if self._saver is not None and self._loader is not None:
            self._saver.close()
            self._loader.close()
            _log.info("saves: %s", self._saver.counts)


def _copies(kv_caches: Mapping[str, "torch.Tensor"], num_shards: int) -> Copies:
    if next(iter(kv_caches.values())).device.type == "cpu":
        return CpuCopies(kv_caches, num_shards)
    from services.worker.kv.cuda import CudaCopies  # touches CUDA

    return CudaCopies(kv_caches, num_shards)
