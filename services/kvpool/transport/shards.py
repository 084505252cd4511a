"""Shards in the arena: as memory to be sent or filled, and checked.

Runs in threads. Blocks that lie side by side travel in one piece, so that small ones cost few system calls and few
turns with the interpreter's lock.
"""

import socket
from collections.abc import Callable, Sequence
from typing import Final

from services.common import kv
from services.common.kv import Arena
from services.kvpool.transport import sockets

_BATCH_BYTES: Final = 1024 * 1024
"""Received before it is checked: still in the processor's cache then, while the kernel takes in what follows."""
_MAX_BATCH: Final = 512


class CorruptBlock(Exception):
    """A shard's checksum is wrong."""


def views(arena: Arena, offsets: Sequence[int], num_bytes: int) -> list[memoryview]:
    """The memory of pieces of `num_bytes` each, in order; neighbours joined."""
    runs: list[list[int]] = []
    for offset in offsets:
        if runs and runs[-1][1] == offset:
            runs[-1][1] += num_bytes
        else:
            runs.append([offset, offset + num_bytes])
    memory = arena.data
    return [memory[start:end] for start, end in runs]


def send(sock: socket.socket, arena: Arena, offsets: Sequence[int], block_bytes: int) -> None:
    """Send blocks in order. Raises what sockets.send_all raises."""
    sockets.send_all(sock, views(arena, offsets, block_bytes))


def receive(
    sock: socket.socket,
    arena: Arena,
    offsets: Sequence[int],
    shard_bytes: int,
    checksums: Sequence[int],
    tell: Callable[[int], None],
    tell_every: int,
) -> None:
    """Fill shards in order and check each; `tell` how many more are right, at about every so many and at the end.

    Raises CorruptBlock, and what sockets.receive_all raises; what was right until then is told.
    """
    batch = max(1, min(_BATCH_BYTES // shard_bytes, _MAX_BATCH))
    told = checked = 0
    try:
        for first in range(0, len(offsets), batch):
            part = offsets[first : first + batch]
            sockets.receive_all(sock, views(arena, part, shard_bytes))
            for offset in part:
                if kv.checksum(arena[offset : offset + shard_bytes]) != checksums[checked]:
                    raise CorruptBlock(f"shard {checked} of {len(offsets)}")
                checked += 1
            if checked - told >= tell_every:
                tell(checked - told)
                told = checked
    finally:
        if checked > told:
            tell(checked - told)
