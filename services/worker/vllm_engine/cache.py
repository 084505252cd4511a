"""The engine's KV events: which blocks came into its prefix cache and which left."""

import tempfile
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import zmq
import zmq.asyncio
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVEventBatch

OnCache = Callable[[Sequence[int], Sequence[int], bool], None]
"""(stored, removed, reset), as in the engine's listener."""


class CacheEvents:
    """Follows one engine's publisher over a socket file of its own."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="legato-", ignore_cleanup_errors=True)
        self.endpoint = f"ipc://{Path(self._directory.name) / 'kv-events'}"

    @asynccontextmanager
    async def subscribed(self) -> AsyncGenerator[zmq.asyncio.Socket]:
        """A socket that gets all events published from shortly after now; unread ones wait in it without limit."""
        with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as socket:
            socket.setsockopt(zmq.RCVHWM, 0)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SUBSCRIBE, b"")
            socket.connect(self.endpoint)
            yield socket

    async def follow(self, socket: zmq.asyncio.Socket, on_cache: OnCache) -> None:
        """Report changes for ever. After a gap in the sequence all is forgotten: too little known is only slower."""
        decoder = msgspec.msgpack.Decoder(KVEventBatch)
        expected = 0
        while True:
            _, sequence, payload = await socket.recv_multipart()
            number = int.from_bytes(sequence, "big")
            if number != expected:
                on_cache((), (), True)
            expected = number + 1
            report(decoder.decode(payload), on_cache)

    def close(self) -> None:
        """Remove the socket file."""
        self._directory.cleanup()


def report(batch: KVEventBatch, on_cache: OnCache) -> None:
    """Tell one batch, in order, in as few reports as order allows."""
    changes: dict[int, bool] = {}
    reset = False
    for event in batch.events:
        match event:
            case BlockStored():
                changes.update((_number(block), True) for block in event.block_hashes)
            case BlockRemoved():
                changes.update((_number(block), False) for block in event.block_hashes)
            case AllBlocksCleared():
                changes.clear()
                reset = True
    stored = [block for block, came in changes.items() if came]
    removed = [block for block, came in changes.items() if not came]
    if stored or removed or reset:
        on_cache(stored, removed, reset)


def _number(block_hash: int | bytes) -> int:
    assert isinstance(block_hash, int), "VLLM_KV_EVENTS_USE_INT_BLOCK_HASHES is on"
    return block_hash
