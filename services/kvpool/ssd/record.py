"""Records of the disk tier's index: how they look, and what a log of them says.

A record is its length (u32), its checksum (xxh3-64, seeded with the length) and its payload, little-endian; the first
byte of the payload is its kind. The first record of a log names the format. A log ends where a record is cut short or
its checksum is wrong: what a crash left half-written is never taken for a record.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

import xxhash

from services.kvpool.events import DiskEntry

_FRAME = struct.Struct("<IQ")
_FORMAT, _PUT, _FORGET = 0, 1, 2
_VERSION = b"legato kv index 1"
# Kind, key, parent, length of the parent, position, offset, num_shards, shard_bytes, block_tokens, length of the
# namespace's id; then that id and the checksums.
_BLOCK = struct.Struct("<B32s32sBIQIQIB")
_OFFSET = struct.Struct("<Q")
_OFFSET_AT = _FRAME.size + 1 + 32 + 32 + 1 + 4
_MAX_BYTES = 1024 * 1024
_FORGET_AT_ONCE = 64 * 1024


@dataclass(slots=True)
class Log:
    """What a log says."""

    known: bool
    """It is of this format."""
    end: int = 0
    """Behind the last good record."""
    live: dict[int, tuple[int, int]] = field(default_factory=dict[int, tuple[int, int]])
    """For each offset of the tier that holds a block: where its record begins in the log, and its length."""


def put(entry: DiskEntry) -> bytes:
    """A block lies at `entry.offset`."""
    name = entry.namespace_id.encode()
    fixed = _BLOCK.pack(
        *(_PUT, entry.key, entry.parent, len(entry.parent), entry.position, entry.offset),
        *(entry.num_shards, entry.shard_bytes, entry.block_tokens, len(name)),
    )
    return _framed(fixed + name + struct.pack(f"<{len(entry.checksums)}Q", *entry.checksums))


def forget(offsets: Sequence[int]) -> bytes:
    """Nothing lies there any more."""
    parts = (offsets[start : start + _FORGET_AT_ONCE] for start in range(0, len(offsets), _FORGET_AT_ONCE))
    return b"".join(_framed(struct.pack(f"<B{len(part)}Q", _FORGET, *part)) for part in parts)


def read(data: bytes) -> Log:
    """Follow a log to the end of what is good of it."""
    log = Log(known=data.startswith(HEADER))
    if not log.known:
        return log
    log.end = len(HEADER)
    while (length := _good(data, log.end)) is not None:
        kind = data[log.end + _FRAME.size]
        if kind == _PUT:
            log.live[_OFFSET.unpack_from(data, log.end + _OFFSET_AT)[0]] = (log.end, length)
        elif kind == _FORGET:
            for (offset,) in _OFFSET.iter_unpack(data[log.end + _FRAME.size + 1 : log.end + length]):
                log.live.pop(offset, None)
        log.end += length
    return log


def entry(data: bytes, start: int) -> DiskEntry:
    """The block whose record begins at `start`."""
    at = start + _FRAME.size
    _, key, parent, parent_bytes, position, offset, num_shards, shard_bytes, block_tokens, name_bytes = (
        _BLOCK.unpack_from(data, at)
    )
    at += _BLOCK.size
    name = data[at : at + name_bytes].decode()
    checksums = struct.unpack_from(f"<{num_shards}Q", data, at + name_bytes)
    return DiskEntry(
        name, num_shards, shard_bytes, block_tokens, key, parent[:parent_bytes], position, offset, checksums
    )


def _framed(payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), xxhash.xxh3_64_intdigest(payload, len(payload))) + payload


def _good(data: bytes, start: int) -> int | None:
    """Length of the record that begins at `start`; None: there is no whole one."""
    if start + _FRAME.size > len(data):
        return None
    length, digest = _FRAME.unpack_from(data, start)
    payload = data[start + _FRAME.size : start + _FRAME.size + length] if 0 < length <= _MAX_BYTES else b""
    if not payload or len(payload) != length or xxhash.xxh3_64_intdigest(payload, length) != digest:
        return None
    return _FRAME.size + length


HEADER = _framed(bytes((_FORMAT,)) + _VERSION)
"""How a log begins."""
