"""The state of the embedded registry: etcd's revisions, transactions, leases and history, in memory.

Pure: `now` (seconds) is an argument and nothing waits. It keeps etcd's own records, for its duty is to answer as etcd
would. Every write takes the next revision; a transaction's writes share one. History is bounded: the oldest is
compacted when twice `max_events` are kept. Refusals raise NotFound, OutOfRange or Unsupported before any change.
"""

import itertools
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from services.common.registry import etcd_pb2 as pb


class NotFound(Exception):
    """There is no such lease."""


class OutOfRange(Exception):
    """There is no such revision."""


class Unsupported(Exception):
    """A request that this subset does not know."""


@dataclass(slots=True)
class _Lease:
    ttl_seconds: int
    expires_at: float
    keys: set[bytes] = field(default_factory=set[bytes])


class Store:
    """Keys, leases and the history of changes."""

    def __init__(self, first_lease: int = 1, max_events: int = 10_000) -> None:
        self.revision = 1
        self.compacted = 0
        """History before this revision is gone."""
        self._max_events = max_events
        self._entries: dict[bytes, pb.KeyValue] = {}
        self._history: list[pb.Event] = []
        self._leases: dict[int, _Lease] = {}
        self._lease_ids = itertools.count(first_lease)

    # Keys

    def range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        kvs = [self._entries[key] for key in self._keys(request.key, request.range_end)]
        return pb.RangeResponse(header=self.header(), kvs=kvs, count=len(kvs))

    def put(self, request: pb.PutRequest) -> pb.PutResponse:
        self._require_lease(request)
        self._commit([self._put(request)])
        return pb.PutResponse(header=self.header())

    def delete(self, request: pb.DeleteRequest) -> pb.DeleteResponse:
        events = self._delete(self._keys(request.key, request.range_end))
        self._commit(events)
        return pb.DeleteResponse(header=self.header(), deleted=len(events))

    def txn(self, request: pb.TxnRequest) -> pb.TxnResponse:
        succeeded = all(self._holds(compare) for compare in request.compare)
        operations = request.success if succeeded else request.failure
        for operation in operations:
            self._require_lease(operation.put)
        events: list[pb.Event] = []
        responses = [self._operate(operation, events) for operation in operations]
        self._commit(events)
        return pb.TxnResponse(header=self.header(), succeeded=succeeded, responses=responses)

    # Leases

    def grant(self, request: pb.LeaseGrantRequest, now: float) -> pb.LeaseGrantResponse:
        id = next(self._lease_ids)
        self._leases[id] = _Lease(request.ttl, now + request.ttl)
        return pb.LeaseGrantResponse(header=self.header(), id=id, ttl=request.ttl)

    def renew(self, request: pb.LeaseKeepAliveRequest, now: float) -> pb.LeaseKeepAliveResponse:
        lease = self._leases.get(request.id)
        if lease is None:
            return pb.LeaseKeepAliveResponse(header=self.header(), id=request.id, ttl=0)
        lease.expires_at = now + lease.ttl_seconds
        return pb.LeaseKeepAliveResponse(header=self.header(), id=request.id, ttl=lease.ttl_seconds)

    def revoke(self, request: pb.LeaseRevokeRequest) -> pb.LeaseRevokeResponse:
        if request.id not in self._leases:
            raise NotFound("etcdserver: requested lease not found")
        self._end_lease(request.id)
        return pb.LeaseRevokeResponse(header=self.header())

    def tick(self, now: float) -> None:
        """End the leases that are due."""
        for id in [id for id, lease in self._leases.items() if lease.expires_at <= now]:
            self._end_lease(id)

    def next_tick(self) -> float | None:
        """When the next lease is due."""
        return min((lease.expires_at for lease in self._leases.values()), default=None)

    # History

    def compact(self, request: pb.CompactRequest) -> pb.CompactResponse:
        if request.revision <= self.compacted:
            raise OutOfRange("etcdserver: mvcc: required revision has been compacted")
        if request.revision > self.revision:
            raise OutOfRange("etcdserver: mvcc: required revision is a future revision")
        self._forget(request.revision)
        return pb.CompactResponse(header=self.header())

    def changes(self, watch: pb.WatchCreateRequest) -> list[pb.Event]:
        """The watched events from `start_revision` on, which must not be before `compacted`."""
        first = bisect_left(self._history, watch.start_revision, key=lambda event: event.kv.mod_revision)
        return [event for event in self._history[first:] if _covers(watch.key, watch.range_end, event.kv.key)]

    def header(self) -> pb.Header:
        return pb.Header(revision=self.revision)

    def _keys(self, key: bytes, range_end: bytes) -> list[bytes]:
        if not range_end:
            return [key] if key in self._entries else []
        return sorted(known for known in self._entries if _covers(key, range_end, known))

    def _put(self, request: pb.PutRequest) -> pb.Event:
        old = self._entries.get(request.key, pb.KeyValue(create_revision=self.revision + 1))
        self._detach(old)
        new = pb.KeyValue(
            key=request.key,
            value=request.value,
            create_revision=old.create_revision,
            mod_revision=self.revision + 1,
            version=old.version + 1,
            lease=request.lease,
        )
        self._entries[request.key] = new
        if request.lease:
            self._leases[request.lease].keys.add(request.key)
        return pb.Event(type=pb.Event.PUT, kv=new)

    def _delete(self, keys: Sequence[bytes]) -> list[pb.Event]:
        for key in keys:
            self._detach(self._entries.pop(key))
        gone = (pb.KeyValue(key=key, mod_revision=self.revision + 1) for key in keys)
        return [pb.Event(type=pb.Event.DELETE, kv=kv) for kv in gone]

    def _detach(self, kv: pb.KeyValue) -> None:
        if lease := self._leases.get(kv.lease):
            lease.keys.discard(kv.key)

    def _operate(self, operation: pb.RequestOp, events: list[pb.Event]) -> pb.ResponseOp:
        if operation.HasField("range"):
            return pb.ResponseOp(range=self.range(operation.range))
        if operation.HasField("put"):
            events.append(self._put(operation.put))
            return pb.ResponseOp(put=pb.PutResponse(header=self.header()))
        keys = self._keys(operation.delete.key, operation.delete.range_end)
        events.extend(self._delete(keys))
        return pb.ResponseOp(delete=pb.DeleteResponse(header=self.header(), deleted=len(keys)))

    def _holds(self, compare: pb.Compare) -> bool:
        if compare.result != pb.Compare.EQUAL:
            raise Unsupported("only EQUAL is compared here")
        kv = self._entries.get(compare.key, pb.KeyValue())
        if compare.target == pb.Compare.VERSION:
            return kv.version == compare.version
        if compare.target == pb.Compare.CREATE:
            return kv.create_revision == compare.create_revision
        if compare.target == pb.Compare.MOD:
            return kv.mod_revision == compare.mod_revision
        raise Unsupported("only VERSION, CREATE and MOD are compared here")

    def _require_lease(self, put: pb.PutRequest) -> None:
        if put.lease and put.lease not in self._leases:
            raise NotFound("etcdserver: requested lease not found")

    def _end_lease(self, id: int) -> None:
        events = self._delete(sorted(self._leases[id].keys))
        del self._leases[id]
        self._commit(events)

    def _commit(self, events: Sequence[pb.Event]) -> None:
        if not events:
            return
        self.revision += 1
        self._history += events
        if len(self._history) > 2 * self._max_events:
            self._forget(self._history[-self._max_events].kv.mod_revision)

    def _forget(self, revision: int) -> None:
        self.compacted = revision
        self._history = [event for event in self._history if event.kv.mod_revision >= revision]


def _covers(key: bytes, range_end: bytes, candidate: bytes) -> bool:
    return key <= candidate < range_end if range_end else candidate == key
