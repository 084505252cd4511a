"""The connector where requests are scheduled: what to load, what to save, whose blocks to keep.

vLLM calls everything here on its scheduler's thread, in the order that its own documentation gives; nothing waits.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from legato.v1 import kv_pb2, kvpool_pb2
from services.worker.kv import client, params
from services.worker.kv.config import ConnectorConfig
from services.worker.kv.lookup import Found, Lookup
from services.worker.kv.retain import Retention
from services.worker.kv.transfer import Load, Loaded, Report, Save, Step, both

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.core.block_pool import BlockPool
    from vllm.v1.core.kv_cache_manager import KVCacheBlocks
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.outputs import KVConnectorOutput
    from vllm.v1.request import Request

_log = logging.getLogger(__name__)

_MOST_LOOKUPS = 3
"""That led to nothing, for one admission; then the request is computed."""
_DECODED_AT_ONCE = 4
"""Blocks that a running request has filled with output before they are offered; the rest is when it finishes."""
_PATIENCE_SECONDS = 0.1
"""Finished requests' blocks may be held so long where others need them."""


@dataclass(slots=True)
class _Call:
    request: "Request"
    params: params.CallParams
    lookup: Lookup | None = None
    num_lookups: int = 0
    begun: bool = False
    """The pool was told that the call began."""
    found: Found | None = None
    """The last answer that vLLM was given."""
    num_offered: int = 0
    """Leading blocks that the pool has or was offered."""
    num_failed_tokens: int = 0
    saving: bool = False


@dataclass(slots=True)
class _Loading:
    load: Load
    call: _Call
    found: Found
    loaded: Loaded | None = None


@dataclass(slots=True)
class _Pending:
    """For the next step."""

    loads: list[Load] = field(default_factory=list[Load])
    saves: list[Save] = field(default_factory=list[Save])
    held: set[str] = field(default_factory=set[str])


class SchedulerSide:
    """Does nothing until the worker's side has said what the KV is (`introduce`)."""

    def __init__(
        self, config: "VllmConfig", settings: ConnectorConfig, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings, self._clock = settings, clock
        self._block_size: int = config.cache_config.block_size
        scheduler = config.scheduler_config
        self._step_blocks = scheduler.max_num_batched_tokens // self._block_size + scheduler.max_num_seqs
        self._pool: client.PoolClient | None = None
        self._num_shards = 1
        self._block_bytes = 0
        self._retention: Retention | None = None
        self._calls: dict[str, _Call] = {}
        self._loading: dict[str, _Loading] = {}
        """Requests whose blocks are being loaded."""
        self._held: dict[str, float] = {}
        """Finished requests whose blocks are not free yet, and since when."""
        self._urgent = False
        self._pending = _Pending()

    def introduce(self, serialized: bytes) -> None:
        """The namespace, from the worker's side."""
        namespace = kv_pb2.KVNamespace.FromString(serialized)
        self._num_shards = namespace.num_shards
        self._block_bytes = namespace.num_shards * namespace.shard_bytes
        self._pool = client.shared(self._settings.address, namespace)
        self._pool.attach()

    def bind(self, block_pool: "BlockPool") -> None:
        """vLLM's blocks."""
        self._retention = Retention(block_pool)

    def begin(self, request: "Request") -> None:
        """A request came."""
        self._calls[request.request_id] = _Call(request, params.unpack(request.kv_transfer_params))

    def num_matched_tokens(self, request: "Request", num_computed: int) -> tuple[int | None, bool]:
        """How many tokens after the computed ones can be loaded: None: ask again. Asking changes no promise."""
        now = self._clock()
        if self._retention is not None:
            self._retention.make_room(request.num_tokens // self._block_size + 1, now)
        call = self._calls.get(request.request_id)
        if self._pool is None or call is None:
            return 0, False
        num_wanted = self._num_wanted(request)
        held = num_computed // self._block_size
        lookup = self._lookup(call, held, now)  # the pool hears of a call by it, even of one without a full block
        if held >= num_wanted or lookup is None:
            call.found = None
            return 0, False
        if not lookup.ended(now):
            return None, False
        call.found = lookup.found(held, self._num_shards)
        if call.found is None:
            return 0, False
        return len(call.found.offsets) * self._block_size, True

    def allocated(self, request: "Request", blocks: "KVCacheBlocks", num_external_tokens: int) -> None:
        """Blocks were given to a request. With external tokens they are to be loaded; it runs when that is done."""
        call = self._calls.get(request.request_id)
        (block_ids,) = blocks.get_block_ids()
        if self._retention is not None:
            self._retention.taken(len(block_ids))
        if call is None:
            return
        found, call.found = call.found, None
        if num_external_tokens and found is not None:
            end = found.first_block + num_external_tokens // self._block_size
            load = Load(
                request_id=request.request_id,
                lease_id=found.lease_id,
                arena_id=found.arena_id,
                offsets=found.offsets,
                checksums=found.checksums,
                block_ids=block_ids[found.first_block : end],
            )
            self._pending.loads.append(load)
            self._loading[request.request_id] = _Loading(load, call, found)
            call.num_offered = end
            call.lookup = None  # its lease is the load's now
        else:
            self._forget(call)

    def step(self, output: "SchedulerOutput") -> Step:
        """What the worker's side has to do in this step, which `output` describes."""
        now = self._clock()
        pending, self._pending = self._pending, _Pending()
        step = Step(loads=pending.loads, saves=pending.saves, held=pending.held)
        step.preempted = set(output.preempted_req_ids or ())
        for request_id in step.preempted:
            if (call := self._calls.get(request_id)) is not None:
                self._forget(call)
                call.num_offered = call.num_lookups = 0
        if self._urgent:
            self._urgent = False
            step.urgent = set(self._held)
        self._offer(output, step)
        if self._retention is not None:
            cached = output.scheduled_cached_reqs
            self._retention.taken(sum(len(ids[0]) for ids in cached.new_block_ids if ids))
            self._retention.make_room(self._step_blocks, now)
        return step

    def received(self, output: "KVConnectorOutput") -> None:
        """What the worker's side said of a step."""
        report = cast(Report | None, output.kv_connector_worker_meta)
        if report is not None:
            for loading in self._loading.values():
                if (loaded := report.loaded.get(loading.load.lease_id)) is not None:
                    loading.loaded = loaded if loading.loaded is None else both(loading.loaded, loaded)
        for request_id in output.finished_recving or ():
            self._end_load(self._loading.pop(request_id))
        for request_id in output.finished_sending or ():
            self._held.pop(request_id, None)

    def finish(self, request: "Request", block_ids: tuple[Sequence[int], ...]) -> tuple[bool, dict[str, Any] | None]:
        """A request ended. (whether its blocks are still to be read, what to say with its last output)."""
        request_id = request.request_id
        call = self._calls.pop(request_id, None)
        if self._pool is None or call is None:
            return False, None
        self._forget(call)
        self._finish_call(call)
        said = self._said(call)
        if request_id in self._loading:
            return False, said  # vLLM holds the blocks until the load has ended; nothing was computed
        blocks = block_ids[0] if block_ids else ()
        full = min(request.num_computed_tokens // self._block_size, len(request.block_hashes), len(blocks))
        if full > call.num_offered:
            self._pending.saves.append(self._save(call, blocks[:full]))
        if call.saving:
            self._pending.held.add(request_id)
            self._held[request_id] = self._clock()
        self._keep(call, blocks[:full])
        return call.saving, said

    def blocks_come_free(self) -> bool:
        """A running request lacks a block: will held ones be free soon? Saves that take long are given up for it."""
        if self._held and self._clock() - min(self._held.values()) > _PATIENCE_SECONDS:
            self._urgent = True
        return bool(self._held)

    def close(self) -> None:
        """End the connection to the pool."""
        if self._pool is not None:
            self._pool.close()

    def _num_wanted(self, request: "Request") -> int:
        """Blocks worth having: the last token has to be computed in any case."""
        return min((request.num_tokens - 1) // self._block_size, len(request.block_hashes))

    def _lookup(self, call: _Call, num_held: int, now: float) -> Lookup | None:
        """The request's question, asked (again) if need be; None: it was asked often enough."""
        lookup = call.lookup
        if lookup is not None and not (lookup.ended(now) and (num_held < lookup.num_held or lookup.lapsed(now))):
            return lookup
        if lookup is not None:
            if call.found is not None:
                call.num_lookups = 0  # vLLM was told and had no memory for it: that lasts as long as others' calls
            self._forget(call)
        if self._pool is None or call.num_lookups >= _MOST_LOOKUPS:
            return None
        request = call.request
        hashes = cast(Sequence[bytes], request.block_hashes[: self._num_wanted(request)])
        call.num_lookups += 1
        self._finish_call(call)  # else the pool would take this for one call more
        call.begun = True
        call.lookup = Lookup(self._pool, self._settings, call.params, hashes, min(num_held, len(hashes)), now)
        return call.lookup

    def _finish_call(self, call: _Call) -> None:
        """To the pool a call begins with the question for its blocks."""
        if self._pool is not None and call.begun and call.params.user.program_id:
            self._pool.finish_call(call.params.user)
        call.begun = False

    def _forget(self, call: _Call) -> None:
        if call.lookup is not None:
            call.lookup.drop()
            call.lookup = None
        call.found = None

    def _offer(self, output: "SchedulerOutput", step: Step) -> None:
        """Save every block that is full and computed when this step's forward pass is done.

        Computed tokens may run ahead of known ones (asynchronous scheduling): only what has a hash is known.
        """
        state = output.kv_connector_block_state
        if self._pool is None or state is None:
            return
        computed = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        cached = output.scheduled_cached_reqs
        computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        for request_id, num_scheduled in output.num_scheduled_tokens.items():
            call = self._calls.get(request_id)
            if call is None:
                continue
            done = (computed[request_id] + num_scheduled) // self._block_size
            full = min(done, len(call.request.block_hashes))
            least = _DECODED_AT_ONCE if computed[request_id] >= call.request.num_prompt_tokens else 1
            if full - call.num_offered >= least and (block_ids := state.get_block_ids(request_id)) is not None:
                step.saves.append(self._save(call, block_ids[0][:full]))

    def _save(self, call: _Call, block_ids: Sequence[int]) -> Save:
        """Of the blocks that were not offered yet. Those that vLLM had itself are offered too: the pool may have
        lost them, and without them nobody finds the later ones."""
        start, call.num_offered = call.num_offered, len(block_ids)
        call.saving = True
        hashes = cast(Sequence[bytes], call.request.block_hashes)
        return Save(
            request_id=call.request.request_id,
            user=call.params.user,
            parent_hash=hashes[start - 1] if start else b"",
            first_block=start,
            block_hashes=hashes[start : len(block_ids)],
            block_ids=block_ids[start:],
        )

    def _end_load(self, loading: _Loading) -> None:
        load, found = loading.load, loading.found
        loaded = loading.loaded or Loaded()
        num_failed = len(load.block_ids) - loaded.num_good
        released = kvpool_pb2.ReleasedLease(
            lease_id=load.lease_id, num_bytes=loaded.num_bytes, copy_seconds=loaded.copy_seconds
        )
        if loaded.corrupt:
            released.corrupt_blocks.append(found.first_block + loaded.num_good - found.num_held)
        if self._pool is not None:
            self._pool.release(released)
        if num_failed:
            call = loading.call
            call.num_offered = min(call.num_offered, found.first_block + loaded.num_good)
            call.num_failed_tokens += num_failed * self._block_size

    def _said(self, call: _Call) -> dict[str, Any] | None:
        said: dict[str, Any] = {}
        if call.num_failed_tokens:
            said[params.NUM_FAILED_TOKENS] = call.num_failed_tokens
        if call.params.describe and self._pool is not None:
            said[params.NAMESPACE_ID] = self._pool.namespace_id
            said[params.BLOCK_BYTES] = self._block_bytes
        return said or None

    def _keep(self, call: _Call, block_ids: Sequence[int]) -> None:
        seconds = call.params.retain_seconds
        seconds = self._settings.retain_seconds if seconds is None else seconds
        user = call.params.user
        if self._retention is not None and seconds > 0 and user.program_id:
            self._retention.keep((user.program_id, user.thread), block_ids, self._clock() + seconds)
