"""KV between processes: names of namespaces, chains of block hashes as they travel, checksums, the shared arena.

A block is named by its namespace and its 32-byte chained hash (block_hash.py); what is known by the low 64 bits alone
is enough to find a block, never to use one. Bytes of a block lie in the pool's arena, one shard after another.
"""

import mmap
import os
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import xxhash

from legato.v1 import kv_pb2

HASH_BYTES = 32
NO_ROOM = 2**64 - 1
"""In the place of an offset: there is none."""

Arena = npt.NDArray[np.uint8]
"""The shared memory, one dimension, writable."""


def namespace_id(namespace: kv_pb2.KVNamespace) -> str:
    """16 hexadecimal digits, equal for equal fields."""
    fields = (
        *(namespace.model, namespace.revision, namespace.dtype, namespace.block_size, namespace.layout),
        *(namespace.num_shards, namespace.platform, namespace.shard_bytes),
    )
    return xxhash.xxh3_64_hexdigest(repr(fields).encode())


def split(block_hashes: bytes) -> list[bytes]:
    """The hashes of a chain. Raises ValueError when they are not 32 bytes each."""
    if len(block_hashes) % HASH_BYTES:
        raise ValueError(f"{len(block_hashes)} bytes are no {HASH_BYTES}-byte hashes")
    return [block_hashes[start : start + HASH_BYTES] for start in range(0, len(block_hashes), HASH_BYTES)]


def joined(block_hashes: Iterable[bytes]) -> bytes:
    """A chain as it travels."""
    return b"".join(block_hashes)


def checksum(data: npt.NDArray[np.uint8]) -> int:
    """xxh3-64 of contiguous bytes: finds torn and mixed-up blocks at memory speed; no defence against malice."""
    return xxhash.xxh3_64_intdigest(data.data)


def map_arena(path: str, num_bytes: int) -> Arena:
    """Map the pool's memory for as long as the array lives. Raises OSError, and ValueError if it is smaller."""
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        mapping = mmap.mmap(descriptor, num_bytes)
    finally:
        os.close(descriptor)
    return np.frombuffer(mapping, np.uint8)
