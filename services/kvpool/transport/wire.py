"""What pools say to each other over a data socket: frames, without I/O.

A frame is a header (magic, version, kind, length of its payload) and a payload, all big-endian. A connection carries
one exchange at a time: RESOLVE is answered by RESOLVED, READ by OFFER and then the bytes of the blocks offered, one
after another without frames; either may be answered by REFUSAL. What breaks these rules ends the connection.

A reader may spread one read over several connections (streams): blocks are dealt to them in stripes.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from services.common import kv

MAX_BLOCKS: Final = 1 << 17
"""In one chain."""
MAX_CHECKSUMS: Final = 1 << 20
"""In one offer."""
MAX_STREAMS: Final = 64

_MAGIC: Final = b"LGKV"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("!4sBBxxI")
_RESOLVE: Final = struct.Struct("!dQIB")
_READ: Final = struct.Struct("!ddIHQHHIB")
_OFFER: Final = struct.Struct("!I")
_TEXT_BYTES: Final = 1000

HEADER_BYTES: Final = _HEADER.size


class WireError(Exception):
    """What came is not this protocol, or is larger than it allows."""


@dataclass(frozen=True, slots=True)
class Resolve:
    """Ask for the hashes of the chain that ends in `tip`."""

    namespace_id: str
    tip: int
    num_blocks: int
    wait_seconds: float


@dataclass(frozen=True, slots=True)
class Resolved:
    """The chain from its root."""

    hashes: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Read:
    """Ask for one stream's share of the blocks `hashes[first_block:]`."""

    namespace_id: str
    hashes: Sequence[bytes]
    """The chain from its root."""
    first_block: int
    num_shards: int
    shard_bytes: int
    """What the reader takes a block to be."""
    wait_seconds: float
    """Longest wait until the blocks can be read."""
    lease_seconds: float
    """How long the reader will be reading, at most."""
    stream: int = 0
    num_streams: int = 1
    stripe_blocks: int = 1

    @property
    def block_bytes(self) -> int:
        return self.num_shards * self.shard_bytes

    @property
    def num_wanted(self) -> int:
        return len(self.hashes) - self.first_block

    def share(self, num_blocks: int) -> list[int]:
        """Which of the first `num_blocks` blocks wanted travel on this stream."""
        if self.num_streams == 1:
            return list(range(num_blocks))
        step = self.stripe_blocks * self.num_streams
        starts = range(self.stream * self.stripe_blocks, num_blocks, step)
        return [i for start in starts for i in range(start, min(start + self.stripe_blocks, num_blocks))]


@dataclass(frozen=True, slots=True)
class Offer:
    """The first `num_blocks` blocks wanted can be read; the bytes of the stream's share of them follow."""

    num_blocks: int
    checksums: Sequence[int]
    """Flat, of the stream's share."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Not served."""

    reason: str
    """Name of a Reason."""
    message: str


Frame: TypeAlias = Resolve | Resolved | Read | Offer | Refusal

_KINDS: Final[dict[type[Frame], int]] = {Resolve: 1, Resolved: 2, Read: 3, Offer: 4, Refusal: 5}
_MAX_BYTES: Final = {
    1: _RESOLVE.size + 255,
    2: MAX_BLOCKS * kv.HASH_BYTES,
    3: _READ.size + 255 + MAX_BLOCKS * kv.HASH_BYTES,
    4: _OFFER.size + MAX_CHECKSUMS * 8,
    5: _TEXT_BYTES,
}


def encode(frame: Frame) -> bytes:
    """The frame with its header. Raises WireError when it is too large to be said."""
    kind = _KINDS[type(frame)]
    try:
        payload = _payload(frame)
    except struct.error as error:
        raise WireError(f"{type(frame).__name__}: {error}") from None
    if len(payload) > _MAX_BYTES[kind]:
        raise WireError(f"{type(frame).__name__} of {len(payload)} bytes, the limit is {_MAX_BYTES[kind]}")
    return _HEADER.pack(_MAGIC, _VERSION, kind, len(payload)) + payload


def decode_header(data: bytes | bytearray) -> tuple[int, int]:
    """Kind and length of the payload. Raises WireError."""
    magic, version, kind, num_bytes = _HEADER.unpack(data)
    if magic != _MAGIC:
        raise WireError(f"begins with {magic!r}, not {_MAGIC!r}")
    if version != _VERSION:
        raise WireError(f"version {version}, this is {_VERSION}")
    if kind not in _MAX_BYTES:
        raise WireError(f"unknown kind {kind}")
    if num_bytes > _MAX_BYTES[kind]:
        raise WireError(f"payload of {num_bytes} bytes, the limit for kind {kind} is {_MAX_BYTES[kind]}")
    return kind, num_bytes


def decode(kind: int, payload: bytes) -> Frame:
    """The frame of that kind. Raises WireError."""
    try:
        match kind:
            case 1:
                return _decode_resolve(payload)
            case 2:
                return Resolved(kv.split(payload))
            case 3:
                return _decode_read(payload)
            case 4:
                return _decode_offer(payload)
            case _:
                reason, _, message = payload.decode().partition(" ")
                return Refusal(reason, message)
    except (struct.error, ValueError) as error:
        raise WireError(f"kind {kind}: {error}") from None


def _payload(frame: Frame) -> bytes:
    match frame:
        case Resolve():
            name = frame.namespace_id.encode()
            return _RESOLVE.pack(frame.wait_seconds, frame.tip, frame.num_blocks, len(name)) + name
        case Resolved():
            return kv.joined(frame.hashes)
        case Read():
            name = frame.namespace_id.encode()
            block = (frame.first_block, frame.num_shards, frame.shard_bytes)
            streams = (frame.stream, frame.num_streams, frame.stripe_blocks)
            fixed = _READ.pack(frame.wait_seconds, frame.lease_seconds, *block, *streams, len(name))
            return fixed + name + kv.joined(frame.hashes)
        case Offer():
            return _OFFER.pack(frame.num_blocks) + struct.pack(f"!{len(frame.checksums)}Q", *frame.checksums)
        case Refusal():
            return f"{frame.reason} {frame.message}".encode()[:_TEXT_BYTES].decode(errors="ignore").encode()


def _decode_resolve(payload: bytes) -> Resolve:
    wait_seconds, tip, num_blocks, name_bytes = _RESOLVE.unpack_from(payload)
    name, rest = _name(payload, _RESOLVE.size, name_bytes)
    if rest or not 0 < num_blocks <= MAX_BLOCKS:
        raise ValueError(f"{num_blocks} blocks, {len(rest)} bytes too many")
    return Resolve(name, tip, num_blocks, _seconds(wait_seconds))


def _decode_read(payload: bytes) -> Read:
    fixed = _READ.unpack_from(payload)
    wait_seconds, lease_seconds, first_block, num_shards, shard_bytes, stream, num_streams, stripe, name_bytes = fixed
    name, rest = _name(payload, _READ.size, name_bytes)
    hashes = kv.split(rest)
    if first_block >= len(hashes):
        raise ValueError(f"block {first_block} of {len(hashes)}")
    if not num_shards or not shard_bytes or not stripe or not stream < num_streams <= MAX_STREAMS:
        raise ValueError(f"{num_shards} shards, stream {stream} of {num_streams}, stripes of {stripe} blocks")
    waits = (_seconds(wait_seconds), _seconds(lease_seconds))
    return Read(name, hashes, first_block, num_shards, shard_bytes, *waits, stream, num_streams, stripe)


def _decode_offer(payload: bytes) -> Offer:
    (num_blocks,) = _OFFER.unpack_from(payload)
    count, rest = divmod(len(payload) - _OFFER.size, 8)
    if rest:
        raise ValueError(f"{rest} bytes of a checksum")
    return Offer(num_blocks, struct.unpack_from(f"!{count}Q", payload, _OFFER.size))


def _name(payload: bytes, start: int, num_bytes: int) -> tuple[str, bytes]:
    if len(payload) < start + num_bytes:
        raise ValueError("cut off")
    return payload[start : start + num_bytes].decode(), payload[start + num_bytes :]


def _seconds(value: float) -> float:
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{value} seconds")
    return value
