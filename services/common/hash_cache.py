"""Block hashes of prompts, remembering those of prefixes that were seen before.

A prompt is hashed in spans of many blocks. A span's hashes depend on its tokens and on the hash before it, and are
kept by these, so a prompt that extends an earlier one costs what is new plus a look at what is old.
"""

from array import array
from dataclasses import dataclass

from services.common.block_hash import ROOT, full_hashes, short
from services.common.lru import ByteLRU, digest

_SPAN_BLOCKS = 32
_HASH_BYTES = 8


@dataclass(frozen=True, slots=True)
class _Span:
    shorts: "array[int]"
    last: bytes


class BlockHashes:
    """Hashes for one model. `cache_bytes` bounds what it remembers. Safe to use from several threads."""

    def __init__(self, block_size: int, cache_bytes: int) -> None:
        self._block_size = block_size
        self._known: ByteLRU[_Span] = ByteLRU(cache_bytes)

    def of(self, token_ids: "array[int]", salt: str = "") -> "array[int]":
        """The low 64 bits of the hash of each full block, in order."""
        result = array("Q")
        parent = ROOT
        step = self._block_size * _SPAN_BLOCKS
        whole = len(token_ids) - len(token_ids) % step
        for start in range(0, whole, step):
            span = self._span(token_ids[start : start + step], parent, "" if start else salt)
            result.extend(span.shorts)
            parent = span.last
        rest = full_hashes(token_ids[whole:], self._block_size, "" if whole else salt, parent)
        result.extend(short(block_hash) for block_hash in rest)
        return result

    def _span(self, token_ids: "array[int]", parent: bytes, salt: str) -> _Span:
        key = digest(parent + salt.encode() + token_ids.tobytes())
        known = self._known.get(key)
        if known is None:
            hashes = list(full_hashes(token_ids, self._block_size, salt, parent))
            known = _Span(array("Q", (short(block_hash) for block_hash in hashes)), hashes[-1])
            self._known.put(key, known, len(hashes) * _HASH_BYTES)
        return known
