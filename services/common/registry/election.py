"""Leader election: the candidate whose key is oldest leads, the next waits for that key to go.

etcd's own recipe and key layout (`<prefix>/<lease in hex>`), so that its tools can watch or take part. The term of a
leader is the revision at which its key was made, above an *era* in the upper half of 64 bits: terms only grow from
leader to leader, also where etcd lost its data and counts from one again, for who led or met a later term stands
`above` it, and the era is raised until that holds.

A leader stays one until etcd says otherwise. While etcd is away nobody else can be elected by it; who is elected
behind the back of a leader that cannot reach it has a later term, which everybody obeys who has heard of it
(docs/decisions/0015). So being cut off from etcd ends no term by itself.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import cast

import grpc

from services.common.registry import etcd_pb2 as pb
from services.common.registry.beside import beside
from services.common.registry.client import Client, Entry, prefix_end
from services.common.registry.connection import EtcdError, Unavailable
from services.common.registry.lease import Lease, LeaseLost, deleted, leased
from services.common.registry.watch import Compacted, watch
from services.common.terms import ERA_BITS

RETRY_SECONDS = 0.2

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One who stands for election, or leads."""

    id: str
    address: str
    """host:port; empty: it cannot be called."""


@dataclass(frozen=True, slots=True)
class Leader(Candidate):
    """Who leads."""

    term: int
    key: str
    revision: int
    """At which the key was written."""


@dataclass(slots=True)
class Leadership:
    """Being the leader."""

    term: int
    """Fencing token: greater than that of any leader before."""
    lost: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when leadership ended. It does not come back."""
    later_term: int = 0
    """One that was met, if any was."""

    def overtake(self, term: int) -> None:
        """Somebody has heard of a later term: this one is over."""
        self.later_term = max(self.later_term, term)
        self.lost.set()


@dataclass(frozen=True, slots=True)
class Election:
    """Where its keys are."""

    prefix: str
    era_key: str


@asynccontextmanager
async def leading(
    client: Client, election: Election, candidate: Candidate, ttl_seconds: int, above: int
) -> AsyncGenerator[Leadership]:
    """Wait until elected; resign on leaving. The block is not interrupted when leadership is lost: watch `lost`.

    `above`: the latest term that the candidate has heard of."""
    elected: asyncio.Future[Leadership] = asyncio.get_running_loop().create_future()
    async with beside(_stand(client, election, candidate, ttl_seconds, above, elected)):
        yield await elected


async def leader(client: Client, election: Election) -> tuple[Leader | None, int]:
    """Who leads, if anybody does, and the revision at which that was so."""
    prefix = f"{election.prefix}/"
    candidates = pb.RangeRequest(key=prefix.encode(), range_end=prefix_end(prefix))
    response = await client.txn([], [pb.RequestOp(range=candidates), _read_era(election)])
    standing, eras = (read.range.kvs for read in response.responses)
    if not standing:
        return None, response.header.revision
    first = min(standing, key=lambda kv: kv.create_revision)
    (era, _), candidate = _era_of(eras), _candidate_of(first.value)
    term = _term(era, first.create_revision)
    return Leader(
        candidate.id, candidate.address, term, first.key.decode(), first.mod_revision
    ), response.header.revision


async def leaders(client: Client, election: Election, silence_seconds: float) -> AsyncGenerator[Leader | None]:
    """Who leads, once etcd has answered and after each change; None: nobody. Waits while etcd is away."""
    while True:
        try:
            found, listed_at = await leader(client, election)
            yield found
            changes = watch(
                client.connection, f"{election.prefix}/", after=listed_at, silence_seconds=silence_seconds, prefix=True
            )
            async with aclosing(changes) as batches:
                async for _ in batches:
                    found, _ = await leader(client, election)
                    yield found
        except (Unavailable, Compacted) as loss:
            logger.info("leader of %s unknown for now: %s", election.prefix, loss)


async def depose(client: Client, deposed: Leader) -> bool:
    """End the lead of one who is dead for certain; False: it had ended. `Unavailable`: perhaps done."""
    key = deposed.key.encode()
    response = await client.txn(
        [pb.Compare(target=pb.Compare.MOD, key=key, mod_revision=deposed.revision)],
        [pb.RequestOp(delete=pb.DeleteRequest(key=key))],
    )
    return response.succeeded


async def _stand(
    client: Client,
    election: Election,
    candidate: Candidate,
    ttl_seconds: int,
    above: int,
    elected: "asyncio.Future[Leadership]",
) -> None:
    """Stand for election, with a new lease whenever one is lost; once elected, lead until that is lost."""
    value = json.dumps({"id": candidate.id, "address": candidate.address}).encode()
    while not elected.done():
        try:
            async with leased(client, ttl_seconds, until_told=True) as lease:
                mine = await _campaign(client, election.prefix, value, lease)
                term = await _begin(client, election, mine, above)
                if elected.cancelled():
                    return
                leadership = Leadership(term)
                elected.set_result(leadership)
                try:
                    await deleted(client, ttl_seconds, mine.key, mine.mod_revision)
                finally:
                    leadership.lost.set()  # before the lease is given back, which may take its time
        except LeaseLost as loss:
            logger.warning("%s: %s", election.prefix, loss)


async def _campaign(client: Client, prefix: str, value: bytes, lease: Lease) -> Entry:
    """Enter the queue of candidates and wait until first in it. Returns the own key."""
    mine = await _enter(client, f"{prefix}/{lease.id:x}", value, lease)
    while True:
        try:
            listing = await client.list(f"{prefix}/")
        except Unavailable:
            continue  # it took its time before it failed
        if mine not in listing.entries:
            raise LeaseLost(f"{mine.key} was deleted")
        before = [entry for entry in listing.entries if entry.create_revision < mine.create_revision]
        if not before:
            return mine
        nearest = max(before, key=lambda entry: entry.create_revision)
        await deleted(client, lease.ttl_seconds, nearest.key, listing.revision)


async def _enter(client: Client, key: str, value: bytes, lease: Lease) -> Entry:
    while True:
        try:
            _, mine = await client.cas(key, value, mod_revision=0, lease=lease.id)
        except Unavailable:  # perhaps done; asking again finds the key if so
            await asyncio.sleep(RETRY_SECONDS)
            continue
        except EtcdError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                raise LeaseLost("the server no longer knows the lease") from error
            raise
        if mine is None:
            raise LeaseLost(f"{key} was deleted")
        return mine


async def _begin(client: Client, election: Election, mine: Entry, above: int) -> int:
    """The term of the leader whose key is `mine`, in an era in which it is later than `above`."""
    while True:
        try:
            era, written_at = await _era(client, election, mine)
            if (term := _term(era, mine.create_revision)) > above:
                return term
            raised = str((above >> ERA_BITS) + 1).encode()
            await client.txn(
                [pb.Compare(target=pb.Compare.MOD, key=election.era_key.encode(), mod_revision=written_at)],
                [
                    pb.RequestOp(put=pb.PutRequest(key=election.era_key.encode(), value=raised)),
                    # As it is, so that those who watch the candidates look again.
                    pb.RequestOp(put=pb.PutRequest(key=mine.key.encode(), value=mine.value, lease=mine.lease)),
                ],
            )
        except Unavailable:
            await asyncio.sleep(RETRY_SECONDS)
        except EtcdError as error:
            if error.code is grpc.StatusCode.NOT_FOUND:
                raise LeaseLost("the server no longer knows the lease") from error
            raise


async def _era(client: Client, election: Election, mine: Entry) -> tuple[int, int]:
    """The era and the revision at which it was written. LeaseLost if the key `mine` is not there at that moment."""
    stands = pb.Compare(target=pb.Compare.CREATE, key=mine.key.encode(), create_revision=mine.create_revision)
    response = await client.txn([stands], [_read_era(election)])
    if not response.succeeded:
        raise LeaseLost("the key was deleted")
    return _era_of(response.responses[0].range.kvs)


def _read_era(election: Election) -> pb.RequestOp:
    return pb.RequestOp(range=pb.RangeRequest(key=election.era_key.encode()))


def _era_of(kvs: Sequence[pb.KeyValue]) -> tuple[int, int]:
    """The first of all eras is written nowhere."""
    return (int(kvs[0].value), kvs[0].mod_revision) if kvs else (0, 0)


def _term(era: int, create_revision: int) -> int:
    return era << ERA_BITS | create_revision


def _candidate_of(value: bytes) -> Candidate:
    """A candidate; one of etcd's own tools has an id alone."""
    try:
        record = cast("dict[str, object]", json.loads(value))
        return Candidate(str(record["id"]), str(record["address"]))
    except (ValueError, KeyError, TypeError):
        return Candidate(value.decode(errors="replace"), "")
