"""How pools copy KV between each other, one file for each way: `tcp` (sockets).

A module of this folder that `choose` returns has

    serve(source, arena, host, port)  an async context manager: lends this pool's blocks to peers while it is open
    peers(arena)                      an async context manager: copies peers' blocks into this pool's arena

The puller names blocks by their full hashes and says what a block's shape is; the peer lends what it has, with the
checksum of each shard, and its bytes are checked before anyone hears of them. A lease that lapsed while bytes were on
their way shows as a wrong checksum. Namespaces, hashes, checksums and offsets are as in services/kvpool/events.py.
"""

import importlib
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, cast

from services.common.kv import Arena


@dataclass(frozen=True, slots=True)
class Link:
    """One block of a chain."""

    hash: bytes
    parent: bytes
    """Hash of the block before it; empty: it is the first."""


@dataclass(frozen=True, slots=True)
class Lent:
    """Leading blocks of those asked for, held in the arena until they are given back or the lease lapses."""

    lease_id: str
    num_shards: int
    shard_bytes: int
    offsets: Sequence[int]
    """Where each block's first shard begins; the others follow it."""
    checksums: Sequence[int]
    """Flat: num_shards for each block."""


class Source(Protocol):
    """What the local pool offers to peers. Called on the event loop; Failure is answered with its reason."""

    async def lend(
        self, namespace_id: str, hashes: Sequence[bytes], first_block: int, wait_seconds: float, lease_seconds: float
    ) -> Lent:
        """Hold `hashes[first_block:]`, the leading ones that can be had in the arena within `wait_seconds` (those on
        disk are brought back first); `hashes` is the chain from its root. No blocks is an answer too. A call that is
        cancelled holds nothing."""
        ...

    def give_back(self, lent: Lent) -> None:
        """The peer has read, or will not. Called once for each `lend` that returned, those of no blocks included."""
        ...

    async def resolve(self, namespace_id: str, tip: int, num_blocks: int) -> list[Link]:
        """The chain of the first `num_blocks` blocks that ends in `tip` (low 64 bits of its hash), from its root; of
        these, the longest prefix that is here in any tier."""
        ...


class Stop(StrEnum):
    """Why no more blocks came. The names are labels of metrics."""

    COMPLETE = "complete"
    """All came."""
    SHORT = "short"
    """The peer has no more, or could not have more in memory in time."""
    REFUSED = "refused"
    """The peer does not know the namespace, or serves too many others."""
    UNREACHABLE = "unreachable"
    """No connection."""
    BROKEN = "broken"
    """The connection ended early."""
    STALLED = "stalled"
    """The peer fell silent."""
    LATE = "late"
    """The time was over while blocks were coming."""
    CORRUPT = "corrupt"
    """A checksum was wrong."""
    NONSENSE = "nonsense"
    """What came is not the protocol, or not what was asked for."""
    PAUSED = "paused"
    """Not tried: the peer failed a moment ago, or too many pulls are under way."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What came of a pull. Slots of the blocks that did not come may have been written to, and are not any more."""

    num_blocks: int
    """Leading blocks that came whole and right."""
    checksums: Sequence[int]
    """Flat: num_shards for each of them."""
    seconds: float
    stop: Stop
    detail: str = ""
    """For a log."""


Came = Callable[[int, Sequence[int]], None]
"""Told of the next leading blocks: how many, and their checksums."""


class Peers(Protocol):
    """The pulling side. Nothing raises for what a peer does or fails to do, and every call is over soon after its
    timeout. After UNREACHABLE, BROKEN, STALLED and NONSENSE, calls to that address fail at once for a moment."""

    async def resolve(
        self, address: str, namespace_id: str, tip: int, num_blocks: int, timeout_seconds: float
    ) -> list[Link]:
        """The peer's `Source.resolve`; empty when it did not answer."""
        ...

    async def pull(
        self,
        address: str,
        namespace_id: str,
        hashes: Sequence[bytes],
        offsets: Sequence[int],
        num_shards: int,
        shard_bytes: int,
        timeout_seconds: float,
        came: Came | None = None,
    ) -> Pulled:
        """Copy the last len(offsets) blocks of the chain `hashes` (from its root) to these offsets of the arena.

        `came` is called on the event loop as leading blocks are checked, in order, each block once; all calls are
        made before `pull` returns, and they add up to what it returns. When it returns or is cancelled, nothing
        writes to the arena any more. Raises ValueError for slots outside the arena,
        or more blocks than wire.MAX_BLOCKS in the chain.
        """
        ...


class Server(Protocol):
    """Lends to peers."""

    @property
    def address(self) -> str:
        """host:port that peers pull from."""
        ...


class Transport(Protocol):
    """A module of this folder."""

    def serve(self, source: Source, arena: Arena, host: str, port: int) -> AbstractAsyncContextManager[Server]:
        """Lend until the context is left. Raises OSError when the port is taken."""
        ...

    def peers(self, arena: Arena) -> AbstractAsyncContextManager[Peers]:
        """Pull until the context is left, which is when no pull is under way any more."""
        ...


def choose(setting: str) -> Transport:
    """The transport of `kvpool.transport`. Raises ValueError, saying what there is, for another."""
    if setting not in ("auto", "tcp"):
        raise ValueError(f"unknown transport {setting!r}; known: auto, tcp")
    return cast(Transport, importlib.import_module(f"{__name__}.tcp"))
