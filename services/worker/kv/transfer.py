"""What the two sides of the connector tell each other, once a step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorStats

from legato.v1 import kv_pb2


@dataclass(frozen=True, slots=True)
class Load:
    """Blocks to bring from the arena into the engine's cache. All sequences run alike, in the order of the chain."""

    request_id: str
    lease_id: str
    arena_id: str
    offsets: Sequence[int]
    checksums: Sequence[int]
    """num_shards for each block."""
    block_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class Save:
    """Full blocks of one request that follow one another, to be offered to the pool."""

    request_id: str
    user: kv_pb2.KVUser
    parent_hash: bytes
    first_block: int
    """Position of the first in its chain."""
    block_hashes: Sequence[bytes]
    block_ids: Sequence[int]


@dataclass(slots=True)
class Step(KVConnectorMetadata):
    """From the scheduler's side to the worker's."""

    loads: list[Load] = field(default_factory=list[Load])
    saves: list[Save] = field(default_factory=list[Save])
    """Computed when this step's forward pass is done."""
    preempted: set[str] = field(default_factory=set[str])
    """Their blocks belong to others from this step on."""
    held: set[str] = field(default_factory=set[str])
    """Requests that finished; their blocks are held until they are told to be saved."""
    urgent: set[str] = field(default_factory=set[str])
    """Held requests whose blocks are needed now: saves that have not begun are given up."""


@dataclass(slots=True)
class Loaded:
    """What became of one load on one rank, or on all of them."""

    num_bytes: int = 0
    copy_seconds: float = 0.0
    num_good: int = 0
    """Leading blocks that are in the cache, with right checksums."""
    corrupt: bool = False
    """Whether the block after them was wrong, rather than not to be had."""


@dataclass(slots=True)
class Report(KVConnectorWorkerMetadata):
    """From the worker's side to the scheduler's: loads by their lease."""

    loaded: dict[str, Loaded]

    def aggregate(self, other: KVConnectorWorkerMetadata) -> "Report":
        merged = dict(self.loaded)
        for lease_id, loaded in cast(Report, other).loaded.items():
            merged[lease_id] = both(merged[lease_id], loaded) if lease_id in merged else loaded
        return Report(merged)


def both(one: Loaded, other: Loaded) -> Loaded:
    """One load as two ranks did it."""
    worse = min(one, other, key=lambda loaded: loaded.num_good)
    return Loaded(
        num_bytes=one.num_bytes + other.num_bytes,
        copy_seconds=max(one.copy_seconds, other.copy_seconds),
        num_good=worse.num_good,
        corrupt=worse.corrupt,
    )


@dataclass
class Stats(KVConnectorStats):
    """What the worker's side did since the last step, by name: it goes to the worker's metrics."""

    def reset(self) -> None:
        self.data = {}

    def aggregate(self, other: KVConnectorStats) -> "Stats":
        names = self.data.keys() | other.data.keys()
        return Stats({name: self.data.get(name, 0) + other.data.get(name, 0) for name in names})

    def reduce(self) -> dict[str, int | float]:
        return dict(self.data)

    def is_empty(self) -> bool:
        return not self.data


@dataclass(slots=True)
class Handshake(KVConnectorHandshakeMetadata):
    """Once, from a worker's side: the namespace, which depends on how the cache was laid out."""

    namespace: bytes
    """Serialized."""
