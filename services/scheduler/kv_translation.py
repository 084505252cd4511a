"""Protobuf to events and plans to protobuf, as far as they are about KV and roles."""

from math import isfinite

from google.protobuf.duration_pb2 import Duration

from legato.v1 import kv_pb2, kvpool_pb2
from services.scheduler.pool_events import (
    PREFETCH_LEASE_SECONDS,
    Handle,
    KVPlan,
    PoolJoined,
    PoolReported,
    PoolSpeeds,
    Prefetch,
    Replica,
    ReplicaUpdate,
    Role,
)


def role_of(role: int) -> Role:
    """A role; what this version does not know is taken for both."""
    return Role(role) if role in (kv_pb2.WORKER_ROLE_PREFILL, kv_pb2.WORKER_ROLE_DECODE) else Role.BOTH


def pool_joined(description: kvpool_pb2.PoolDescription) -> PoolJoined:
    """A pool introduces itself."""
    capacity_bytes = description.dram_bytes + description.ssd_bytes
    return PoolJoined(description.pool_id, description.data_address, capacity_bytes)


def pool_reported(pool_id: str, response: kvpool_pb2.WatchReplicasResponse) -> PoolReported:
    """What changed in a pool."""
    updates = [
        ReplicaUpdate(update.namespace_id, update.dram, update.ssd, update.removed) for update in response.updates
    ]
    speeds: PoolSpeeds | None = None
    if response.HasField("speeds"):
        measured = response.speeds
        speeds = PoolSpeeds(_speed(measured.load), _speed(measured.ssd_read), _speed(measured.pull))
    return PoolReported(pool_id, updates, response.reset, speeds)


def plan_of(plan: KVPlan) -> kv_pb2.KVPlan:
    """A plan as it goes with a placement."""
    return kv_pb2.KVPlan(
        handle=_handle(plan.handle) if plan.handle else None,
        replica=_replica(plan.replica) if plan.replica else None,
        lease=_lease(plan.lease_id) if plan.lease_id else None,
        hand_off=plan.hand_off,
        retain=None if plan.retain_seconds is None else _duration(plan.retain_seconds),
        arriving=plan.arriving,
    )


def prefetch_of(prefetch: Prefetch) -> kvpool_pb2.PrefetchRequest:
    """What a pool is told."""
    return kvpool_pb2.PrefetchRequest(
        handle=_handle(prefetch.handle),
        replica=_replica(prefetch.replica) if prefetch.replica else None,
        lease=_lease(prefetch.lease_id),
    )


def _handle(handle: Handle) -> kv_pb2.KVHandle:
    return kv_pb2.KVHandle(namespace_id=handle.namespace_id, tip=handle.tip, num_blocks=handle.num_blocks)


def _replica(replica: Replica) -> kv_pb2.KVReplica:
    return kv_pb2.KVReplica(
        pool_id=replica.pool_id,
        data_address=replica.data_address,
        num_blocks=replica.num_blocks,
        tier=kv_pb2.KV_TIER_SSD if replica.on_ssd else kv_pb2.KV_TIER_DRAM,
    )


def _lease(lease_id: str) -> kv_pb2.KVLease:
    return kv_pb2.KVLease(lease_id=lease_id, duration=_duration(PREFETCH_LEASE_SECONDS))


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(round(seconds * 1e9))
    return duration


def _speed(value: float) -> float:
    """A double of the wire as a speed; 0: not known."""
    return value if isfinite(value) and value > 0 else 0.0
