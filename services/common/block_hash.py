"""Chained hashes of KV blocks, as vLLM computes them, without vLLM.

A block's hash covers its tokens and the hash of the block before it, so it names the whole prefix. This is vLLM's
`prefix_caching_hash_algo="sha256_cbor"` with the seed that the worker gives it (SEED, in PYTHONHASHSEED); a contract
test compares the two. On the wire a hash is its last 8 bytes as a big-endian integer, which is what vLLM's KV events
carry.
"""

import hashlib
from collections.abc import Iterator, Sequence

import cbor2

SEED = "0"
"""Value of PYTHONHASHSEED in every engine."""

ROOT = hashlib.sha256(cbor2.dumps(SEED, canonical=True)).digest()
"""Parent of the first block."""


def full_hashes(token_ids: Sequence[int], block_size: int, salt: str = "", parent: bytes = ROOT) -> Iterator[bytes]:
    """The 32-byte hash of each full block of `token_ids`, in order; a partial block at the end has none.

    `parent`: hash of the block before these tokens, to extend a known prefix. `salt` keeps prefixes apart that have
    different ones; it counts where the prefix begins, so only with the default `parent`.
    """
    extra = (("cache_salt", salt),) if salt and parent == ROOT else None
    for start in range(0, len(token_ids) - block_size + 1, block_size):
        block = tuple(token_ids[start : start + block_size])
        parent = hashlib.sha256(cbor2.dumps((parent, block, extra), canonical=True)).digest()
        extra = None
        yield parent


def short(block_hash: bytes) -> int:
    """A hash as it travels: the low 64 bits."""
    return int.from_bytes(block_hash[-8:], "big")


def block_hashes(token_ids: Sequence[int], block_size: int, salt: str = "") -> list[int]:
    """The low 64 bits of the hash of each full block."""
    return [short(block_hash) for block_hash in full_hashes(token_ids, block_size, salt)]
