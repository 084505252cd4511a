"""Block hashes of a sequence, remembering those of prefixes seen before: agents' prompts repeat all but their end.

Content-addressed: sequences are cut into segments of whole blocks, and a segment is known by a digest of everything up
to its end. At most `max_segments` are remembered, the least recently used forgotten first.
"""

import hashlib
from array import array
from collections import OrderedDict

from services.common.block_hash import ROOT, full_hashes, short

SEGMENT_BLOCKS = 64


class Chains:
    """Computes what `services.common.block_hash.block_hashes` does, faster on the second time."""

    def __init__(self, block_size: int, max_segments: int = 4096) -> None:
        self._block_size = block_size
        self._max_segments = max_segments
        self._segments: OrderedDict[bytes, tuple[bytes, array[int]]] = OrderedDict()
        """Digest of the prefix -> (full hash of its last block, short hashes of its last segment)."""

    def hashes(self, token_ids: "array[int]", salt: str = "") -> list[int]:
        """The low 64 bits of the hash of each full block."""
        size = self._block_size * SEGMENT_BLOCKS
        digest, parent, result = salt.encode(), ROOT, list[int]()
        start = 0
        while start + size <= len(token_ids):
            part = token_ids[start : start + size]
            digest = hashlib.blake2b(digest + b"\0" + part.tobytes(), digest_size=16).digest()
            known = self._segments.get(digest)
            if known is None:
                known = self._segments[digest] = self._compute(part, salt, parent)
                if len(self._segments) > self._max_segments:
                    self._segments.popitem(last=False)
            else:
                self._segments.move_to_end(digest)
            parent = known[0]
            result.extend(known[1])
            start += size
        rest = full_hashes(token_ids[start:].tolist(), self._block_size, salt, parent)
        result.extend(short(block_hash) for block_hash in rest)
        return result

    def _compute(self, part: "array[int]", salt: str, parent: bytes) -> tuple[bytes, "array[int]"]:
        full = list(full_hashes(part.tolist(), self._block_size, salt, parent))
        return full[-1], array("Q", [short(block_hash) for block_hash in full])
