"""An asyncio client of etcd's key-value store and leases.

Reads are linearizable. Reads, puts, deletes and lease calls are repeated when a server fails to answer: a key that is
put or deleted unconditionally must have one writer. A transaction that writes is never repeated, for it could report
its own first success as a conflict. Errors: `Unavailable`, EtcdError (see connection.py). Watches are in watch.py,
keeping a lease alive in lease.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from services.common.registry import etcd_pb2 as pb
from services.common.registry.connection import Connection, Method

RANGE = Method("/etcdserverpb.KV/Range", pb.RangeRequest, pb.RangeResponse)
PUT = Method("/etcdserverpb.KV/Put", pb.PutRequest, pb.PutResponse)
DELETE = Method("/etcdserverpb.KV/DeleteRange", pb.DeleteRequest, pb.DeleteResponse)
TXN = Method("/etcdserverpb.KV/Txn", pb.TxnRequest, pb.TxnResponse)
COMPACT = Method("/etcdserverpb.KV/Compact", pb.CompactRequest, pb.CompactResponse)
GRANT = Method("/etcdserverpb.Lease/LeaseGrant", pb.LeaseGrantRequest, pb.LeaseGrantResponse)
REVOKE = Method("/etcdserverpb.Lease/LeaseRevoke", pb.LeaseRevokeRequest, pb.LeaseRevokeResponse)
RENEW = Method("/etcdserverpb.Lease/LeaseKeepAlive", pb.LeaseKeepAliveRequest, pb.LeaseKeepAliveResponse)


@dataclass(frozen=True, slots=True)
class Entry:
    """A key as it stands."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int


@dataclass(frozen=True, slots=True)
class Listing:
    """All keys under a prefix, in their order, at one revision."""

    entries: tuple[Entry, ...]
    revision: int


def prefix_end(prefix: str) -> bytes:
    """The first key after all keys with that prefix. UTF-8 has no 0xFF byte, so there is always one."""
    raw = prefix.encode()
    return raw[:-1] + bytes([raw[-1] + 1])


class Client:
    """Keys and leases. Keys are text."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def get(self, key: str) -> Entry | None:
        request = pb.RangeRequest(key=key.encode())
        response = await self.connection.call(RANGE, request, repeatable=True)
        return _entry(response.kvs[0]) if response.kvs else None

    async def list(self, prefix: str) -> Listing:
        request = pb.RangeRequest(key=prefix.encode(), range_end=prefix_end(prefix))
        response = await self.connection.call(RANGE, request, repeatable=True)
        return Listing(tuple(_entry(kv) for kv in response.kvs), response.header.revision)

    async def put(self, key: str, value: bytes, lease: int = 0) -> int:
        """Returns the revision. NOT_FOUND if the lease is gone."""
        request = pb.PutRequest(key=key.encode(), value=value, lease=lease)
        return (await self.connection.call(PUT, request, repeatable=True)).header.revision

    async def delete(self, key: str) -> bool:
        """Returns whether there was such a key."""
        return (await self.connection.call(DELETE, pb.DeleteRequest(key=key.encode()), repeatable=True)).deleted > 0

    async def txn(
        self, compare: Sequence[pb.Compare], success: Sequence[pb.RequestOp], failure: Sequence[pb.RequestOp] = ()
    ) -> pb.TxnResponse:
        """Do `success` if every comparison holds, else `failure`, at one revision. `Unavailable`: perhaps done."""
        request = pb.TxnRequest(compare=compare, success=success, failure=failure)
        reads = all(operation.HasField("range") for operation in (*success, *failure))
        return await self.connection.call(TXN, request, repeatable=reads)

    async def cas(self, key: str, value: bytes, mod_revision: int, lease: int = 0) -> tuple[bool, Entry | None]:
        """Put if the key was last written at `mod_revision`; 0: if there is none. Returns (done, what stands now)."""
        raw = key.encode()
        read = pb.RequestOp(range=pb.RangeRequest(key=raw))
        response = await self.txn(
            [pb.Compare(target=pb.Compare.MOD, key=raw, mod_revision=mod_revision)],
            [pb.RequestOp(put=pb.PutRequest(key=raw, value=value, lease=lease)), read],
            [read],
        )
        kvs = response.responses[-1].range.kvs
        return response.succeeded, _entry(kvs[0]) if kvs else None

    async def compact(self, revision: int) -> None:
        """Forget the history before `revision`."""
        await self.connection.call(COMPACT, pb.CompactRequest(revision=revision), repeatable=False)

    async def grant(self, ttl_seconds: int) -> int:
        """A new lease's id."""
        return (await self.connection.call(GRANT, pb.LeaseGrantRequest(ttl=ttl_seconds), repeatable=True)).id

    async def renew(self, lease: int, timeout_seconds: float) -> int:
        """Returns the seconds that the lease now has; 0: it is gone."""
        request = pb.LeaseKeepAliveRequest(id=lease)
        return (await self.connection.call(RENEW, request, repeatable=True, timeout_seconds=timeout_seconds)).ttl

    async def revoke(self, lease: int, timeout_seconds: float | None = None) -> None:
        """End a lease; its keys go with it. NOT_FOUND if it is gone."""
        request = pb.LeaseRevokeRequest(id=lease)
        await self.connection.call(REVOKE, request, repeatable=True, timeout_seconds=timeout_seconds)


def _entry(kv: pb.KeyValue) -> Entry:
    return Entry(kv.key.decode(), kv.value, kv.create_revision, kv.mod_revision, kv.lease)
