"""Protobuf to events at the door, actions to protobuf on the way out. Failure for bad input names the field."""

from collections.abc import Callable
from math import inf, isfinite

from google.protobuf.duration_pb2 import Duration

from legato.v1 import kv_pb2, kvpool_pb2
from services.common import kv
from services.common.errors import Failure, Reason
from services.kvpool import events
from services.kvpool.actions import Changes, Status
from services.kvpool.places import DRAM, SSD
from services.kvpool.pool import Pool

MAX_BLOCKS = 128 * 1024
"""In one request: 4 million tokens at 32 a block."""
MAX_ID_BYTES = 512
_MAX_SHARDS = 1024
_MAX_SHARD_BYTES = 2**40

Made = Callable[[int], events.Event]
"""The event, given the number of its request."""


def attach(namespace: kv_pb2.KVNamespace) -> tuple[str, Made]:
    """The namespace's id, and the event."""
    for name in ("model", "revision", "dtype", "layout", "platform"):
        _id(getattr(namespace, name), f"namespace.{name}", required=name == "model")
    _within(namespace.block_size, 1, 2**20, "namespace.block_size")
    _within(namespace.num_shards, 1, _MAX_SHARDS, "namespace.num_shards")
    _within(namespace.shard_bytes, 1, _MAX_SHARD_BYTES, "namespace.shard_bytes")
    name = kv.namespace_id(namespace)
    shape = (namespace.num_shards, namespace.shard_bytes, namespace.block_size)
    return name, lambda request: events.Attach(request, name, *shape)


def acquire(message: kvpool_pb2.AcquireRequest, pool_id: str) -> Made:
    """`pool_id`: this pool's."""
    hashes = chain(message.block_hashes, "block_hashes")
    _within(message.num_held, 0, len(hashes), "num_held")
    lease_id = _id(message.lease_id, "lease_id")
    namespace_id = _id(message.namespace_id, "namespace_id")
    user = user_of(message.user)
    replica = _replica(message.replica, pool_id) if message.HasField("replica") else None
    wait = _seconds(message.wait, "wait") if message.HasField("wait") else 0.0
    duration = _seconds(message.duration, "duration") if message.HasField("duration") else inf
    prefetch = _id(message.prefetch_lease_id, "prefetch_lease_id", required=False)
    num_expected = min(message.num_expected, len(hashes))
    what = (lease_id, namespace_id, hashes, message.num_held, user, replica, wait, duration, num_expected, prefetch)
    return lambda request: events.Acquire(request, *what)


def release(message: kvpool_pb2.ReleaseRequest) -> events.Release:
    """What was measured and makes no sense counts as not measured."""
    return events.Release(
        [
            events.ReleasedLease(
                lease.lease_id, lease.num_bytes, _measured(lease.copy_seconds), tuple(lease.corrupt_blocks)
            )
            for lease in message.leases
        ]
    )


def begin_store(message: kvpool_pb2.BeginStoreRequest) -> Made:
    hashes = chain(message.block_hashes, "block_hashes")
    if not hashes:
        raise _bad("block_hashes", "empty")
    if len(message.parent_hash) != (kv.HASH_BYTES if message.first_block else 0):
        expected = f"{kv.HASH_BYTES} bytes behind other blocks, none at the root"
        raise _bad("parent_hash", f"{len(message.parent_hash)} bytes for first_block {message.first_block}: {expected}")
    namespace_id = _id(message.namespace_id, "namespace_id")
    duration = _seconds(message.duration, "duration") if message.HasField("duration") else inf
    where = (message.parent_hash, message.first_block, message.shard)
    user = user_of(message.user)
    return lambda request: events.BeginStore(request, namespace_id, hashes, *where, user, duration)


def commit(message: kvpool_pb2.CommitRequest) -> Made:
    what = (_id(message.reservation_id, "reservation_id"), tuple(message.checksums), _measured(message.copy_seconds))
    return lambda request: events.Commit(request, *what)


def prefetch(message: kvpool_pb2.PrefetchRequest, pool_id: str) -> Made:
    handle, lease = message.handle, message.lease
    namespace_id = _id(handle.namespace_id, "handle.namespace_id")
    _within(handle.num_blocks, 1, MAX_BLOCKS, "handle.num_blocks")
    replica = _replica(message.replica, pool_id) if message.HasField("replica") else None
    lease_id = _id(lease.lease_id, "lease.lease_id")
    seconds = _seconds(lease.duration, "lease.duration") if lease.HasField("duration") else inf
    what = (namespace_id, handle.tip, handle.num_blocks, replica, lease_id, seconds)
    return lambda request: events.Prefetch(request, *what)


def finish(message: kvpool_pb2.FinishCallRequest) -> events.FinishCall:
    return events.FinishCall(_id(message.namespace_id, "namespace_id"), user_of(message.user))


def chain(block_hashes: bytes, field: str) -> list[bytes]:
    """The hashes of a chain."""
    if len(block_hashes) > MAX_BLOCKS * kv.HASH_BYTES:
        raise _bad(field, f"at most {MAX_BLOCKS} blocks, got {len(block_hashes) // kv.HASH_BYTES}")
    try:
        return kv.split(block_hashes)
    except ValueError as error:
        raise _bad(field, str(error)) from None


def user_of(user: kv_pb2.KVUser) -> events.User:
    """For whom. Without a program it is nobody."""
    for name in ("program_id", "tenant", "agent", "thread"):
        _id(getattr(user, name), f"user.{name}", required=False)
    return events.User(user.program_id, user.tenant, user.agent, user.thread)


def id_of(value: str, field: str) -> str:
    """An id that must be there."""
    return _id(value, field)


def replicas_of(changes: Changes, pool: Pool) -> kvpool_pb2.WatchReplicasResponse:
    """What a watcher hears."""
    return kvpool_pb2.WatchReplicasResponse(
        revision=changes.revision,
        reset=changes.reset,
        updates=[
            kvpool_pb2.ReplicaUpdate(
                namespace_id=update.namespace_id, dram=update.dram, ssd=update.ssd, removed=update.removed
            )
            for update in changes.updates
        ],
        speeds=speeds_of(pool),
    )


def speeds_of(pool: Pool) -> kvpool_pb2.PoolSpeeds:
    speeds = pool.speeds
    return kvpool_pb2.PoolSpeeds(load=speeds["dram"], ssd_read=speeds["ssd"], pull=speeds["peer"])


def status_of(
    status: Status, pool: Pool, description: kvpool_pb2.PoolDescription, retention: str
) -> kvpool_pb2.PoolStatus:
    """What people hear."""
    message = kvpool_pb2.PoolStatus(
        description=description,
        num_requested_blocks=status.num_requested_blocks,
        num_missed_blocks=status.num_missed_blocks,
        num_pulled_blocks=status.num_pulled_blocks,
        num_corrupt_blocks=status.num_corrupt_blocks,
        evictions=status.evictions,
        speeds=speeds_of(pool),
        num_leases=status.num_leases,
        num_reservations=status.num_reservations,
        retention=retention,
    )
    for program_id, num_bytes in status.top_programs:
        message.top_programs.add(program_id=program_id, num_bytes=num_bytes)
    for tier in status.tiers:
        reading, writing = pool.rates(DRAM if tier.tier is events.Tier.DRAM else SSD)
        message.tiers.add(
            tier=kv_pb2.KV_TIER_DRAM if tier.tier is events.Tier.DRAM else kv_pb2.KV_TIER_SSD,
            used_bytes=tier.used_bytes,
            capacity_bytes=tier.capacity_bytes,
            num_blocks=tier.num_blocks,
            num_hit_blocks=tier.num_hit_blocks,
            read_bytes=tier.read_bytes,
            written_bytes=tier.written_bytes,
            read_bytes_per_second=reading,
            written_bytes_per_second=writing,
        )
    return message


def _replica(replica: kv_pb2.KVReplica, pool_id: str) -> events.Replica | None:
    """None: there is nothing to be had there that is not here."""
    if not replica.num_blocks or replica.pool_id == pool_id:
        return None
    _id(replica.pool_id, "replica.pool_id")
    _id(replica.data_address, "replica.data_address")
    tier = events.Tier.SSD if replica.tier == kv_pb2.KV_TIER_SSD else events.Tier.DRAM
    return events.Replica(replica.pool_id, replica.data_address, replica.num_blocks, tier)


def _id(value: str, field: str, required: bool = True) -> str:
    if required and not value:
        raise _bad(field, "missing")
    if len(value) > MAX_ID_BYTES:
        raise _bad(field, f"at most {MAX_ID_BYTES} characters, got {len(value)}")
    return value


def _within(value: int, least: int, most: int, field: str) -> None:
    if not least <= value <= most:
        raise _bad(field, f"from {least} to {most}, got {value}")


def _seconds(duration: Duration, field: str) -> float:
    seconds = duration.seconds + duration.nanos / 1e9
    if seconds < 0:
        raise _bad(field, f"at least 0 s, got {seconds}")
    return seconds


def _measured(seconds: float) -> float:
    return seconds if isfinite(seconds) and seconds > 0 else 0.0


def _bad(field: str, what: str) -> Failure:
    return Failure(Reason.INVALID_ARGUMENT, f"{field}: {what}", field)
