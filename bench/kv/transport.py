"""How fast pools copy KV between each other, beside what the machine can do: `python -m bench.kv.transport`.

Two processes with an arena each in /dev/shm, joined by loopback. In the same run, in turns, repeated, medians:

    memcpy   one thread, block by block, from arena to arena
    socket   blocking threads, sendall and recv_into, block by block, nothing checked: the plain way
    tcp/N    services.kvpool.transport over N connections: asked, lent, copied, every checksum verified, given back

Blocks are contiguous in the reader's arena or scattered (every second slot).
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import os
import socket
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection

import numpy as np

from services.common import kv
from services.kvpool.transport import Lent, Link, Pulled, tcp
from services.kvpool.transport.limits import PullLimits

BLOCK_BYTES = (64 * 1024, 256 * 1024, 4 * 1024 * 1024)
TOTAL_BYTES = 256 * 1024 * 1024
REPEATS = 7
STREAMS = (1, 2, 4)
_NAMESPACE = "0" * 16


def measure(block_sizes: Sequence[int] = BLOCK_BYTES, repeats: int = REPEATS) -> dict[str, float]:
    """GB/s (1e9 bytes) by "what/block size in KiB"."""
    with _arena("reader") as (_, reader), _arena("lender") as (path, lender):
        lender[:] = np.random.default_rng(0).integers(0, 256, TOTAL_BYTES, np.uint8)
        reader[:] = 1
        results: dict[str, float] = {}
        for block_bytes in block_sizes:
            results |= asyncio.run(_measure_one(path, lender, reader, block_bytes, repeats))
    return results


async def _measure_one(
    path: str, lender: kv.Arena, reader: kv.Arena, block_bytes: int, repeats: int
) -> dict[str, float]:
    num_blocks = TOTAL_BYTES // block_bytes
    ordered = [i * block_bytes for i in range(num_blocks)]
    scattered = ordered[::2] + ordered[1::2]
    hashes = [i.to_bytes(kv.HASH_BYTES, "big") for i in range(num_blocks)]
    timings: dict[str, list[float]] = {}
    async with contextlib.AsyncExitStack() as stack:
        address, plain = stack.enter_context(_lender(path, block_bytes))
        pulls = {n: await stack.enter_async_context(tcp.peers(reader, PullLimits(num_streams=n))) for n in STREAMS}

        async def pull(num_streams: int, offsets: list[int]) -> Pulled:
            pulled = await pulls[num_streams].pull(address, _NAMESPACE, hashes, offsets, 1, block_bytes, 30)
            if pulled.num_blocks != num_blocks:
                raise RuntimeError(f"{pulled.num_blocks} of {num_blocks} blocks: {pulled.stop} {pulled.detail}")
            return pulled

        for _ in range(repeats + 1):  # the first round warms up
            plain_copies: dict[str, Callable[[], None]] = {
                "memcpy": lambda: _copy(lender, reader, scattered, block_bytes),
                "socket": lambda: _receive(plain, reader, scattered, block_bytes),
            }
            for name, copy in plain_copies.items():
                started = time.perf_counter()
                await asyncio.to_thread(copy)
                timings.setdefault(name, []).append(time.perf_counter() - started)
            for n in STREAMS:
                for name, offsets in ((f"tcp/{n}", ordered), (f"tcp/{n}/scattered", scattered)):
                    timings.setdefault(name, []).append((await pull(n, offsets)).seconds)
    size = f"{block_bytes // 1024}KiB"
    return {f"{name}/{size}": TOTAL_BYTES / statistics.median(took[1:]) / 1e9 for name, took in timings.items()}


def _copy(lender: kv.Arena, reader: kv.Arena, offsets: Sequence[int], block_bytes: int) -> None:
    for i, offset in enumerate(offsets):
        reader[offset : offset + block_bytes] = lender[i * block_bytes : (i + 1) * block_bytes]


def _receive(plain: socket.socket, reader: kv.Arena, offsets: Sequence[int], block_bytes: int) -> None:
    plain.sendall(b"x")
    for offset in offsets:
        view = reader.data[offset : offset + block_bytes]
        while view:
            view = view[plain.recv_into(view) :]


@contextlib.contextmanager
def _arena(name: str) -> Generator[tuple[str, kv.Arena]]:
    with tempfile.NamedTemporaryFile(dir="/dev/shm", prefix=f"legato-bench-{name}-") as file:
        os.truncate(file.name, TOTAL_BYTES)
        yield file.name, kv.map_arena(file.name, TOTAL_BYTES)


@contextlib.contextmanager
def _lender(path: str, block_bytes: int) -> Generator[tuple[str, socket.socket]]:
    """A process that lends, and sends all of its arena down a plain socket for each byte it gets."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_lend, args=(path, block_bytes, there))
    process.start()
    there.close()  # a child that dies is heard of
    try:
        address, port = here.recv()
        with socket.create_connection(("127.0.0.1", port)) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            yield address, plain
    finally:
        here.close()
        process.join()


def _lend(path: str, block_bytes: int, pipe: Connection) -> None:
    asyncio.run(_lend_until_told(kv.map_arena(path, TOTAL_BYTES), block_bytes, pipe))


async def _lend_until_told(arena: kv.Arena, block_bytes: int, pipe: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with tcp.serve(_Everything(arena, block_bytes), arena, "127.0.0.1", 0) as server:
            pipe.send((server.address, listener.getsockname()[1]))
            sending = asyncio.to_thread(_send, listener, arena, block_bytes)
            await asyncio.gather(sending, asyncio.to_thread(pipe.poll, None))


def _send(listener: socket.socket, arena: kv.Arena, block_bytes: int) -> None:
    sock, _ = listener.accept()
    with sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while sock.recv(1):
            for offset in range(0, arena.nbytes, block_bytes):
                sock.sendall(arena.data[offset : offset + block_bytes])


class _Everything:
    """A source that has every block, in order."""

    def __init__(self, arena: kv.Arena, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._offsets = range(0, arena.nbytes, block_bytes)
        self._checksums = [kv.checksum(arena[offset : offset + block_bytes]) for offset in self._offsets]

    async def lend(
        self, namespace_id: str, hashes: Sequence[bytes], first_block: int, wait_seconds: float, lease_seconds: float
    ) -> Lent:
        wanted = slice(first_block, len(hashes))
        return Lent("all", 1, self._block_bytes, self._offsets[wanted], self._checksums[wanted])

    def give_back(self, lent: Lent) -> None:
        pass

    async def resolve(self, namespace_id: str, tip: int, num_blocks: int) -> list[Link]:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=REPEATS)
    results = measure(repeats=parser.parse_args().repeats)
    for key, speed in results.items():
        what, _, size = key.rpartition("/")
        print(f"{size:>8}  {what:<18} {speed:6.2f} GB/s  {speed / results[f'socket/{size}']:5.2f} x socket")


if __name__ == "__main__":
    main()
