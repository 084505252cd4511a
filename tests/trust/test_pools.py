"""A pool lends blocks to pools of its cluster, and to nobody else."""

import asyncio
import logging
import socket
import ssl

import pytest

from services.common import tls
from services.common.tls import Identity
from services.kvpool.transport import Pulled, Stop, sockets, tcp, wire
from tests.kvpool.shelf import NAMESPACE, Shelf, new_arena
from tests.trust.conftest import Who, identity, issued


class Heard(logging.Handler):
    """What is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: asyncio.Queue[str] = asyncio.Queue()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.put_nowait(record.getMessage())


async def pulled(address: str, shelf: Shelf, own: Identity | None) -> Pulled:
    """The shelf's blocks, by two pulls over kept connections."""
    arena = new_arena(shelf.arena.nbytes)
    offsets = [i * shelf.block_bytes for i in range(len(shelf.hashes))]
    shape = (shelf.num_shards, shelf.shard_bytes)
    async with tcp.peers(arena, own=own) as peers:
        await peers.pull(address, NAMESPACE, shelf.hashes, offsets, *shape, 10)
        result = await peers.pull(address, NAMESPACE, shelf.hashes, offsets, *shape, 10)
    if result.num_blocks:
        assert arena[: shelf.block_bytes].tobytes() == shelf.block(0)
    return result


async def test_pools_that_prove_who_they_are_exchange_blocks(who: Who) -> None:
    shelf = Shelf(12, 3_000_000)  # enough for several streams
    async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0, own=who("kvpool")) as server:
        assert (await pulled(server.address, shelf, who("kvpool"))).stop is Stop.COMPLETE


async def test_whoever_is_no_pool_of_the_cluster_gets_nothing(
    who: Who, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shelf = Shelf(2, 1000)
    log = logging.getLogger("services.kvpool.transport.lending")
    stranger = identity(issued(tmp_path_factory.mktemp("stranger")), "kvpool")
    async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0, own=who("kvpool")) as server:
        for peer, said in ((who("worker"), "worker is no KV pool"), (stranger, "UNKNOWN_CA"), (None, "WRONG_VERSION")):
            heard = Heard()
            log.addHandler(heard)
            assert (await pulled(server.address, shelf, peer)).num_blocks == 0
            async with asyncio.timeout(10):
                message = await heard.messages.get()
            log.removeHandler(heard)
            assert message.startswith("a peer was refused: ")
            assert said in message
    assert shelf.num_lends == 0


async def test_a_pool_takes_no_blocks_from_strangers(who: Who, tmp_path_factory: pytest.TempPathFactory) -> None:
    shelf = Shelf(2, 1000)
    stranger = identity(issued(tmp_path_factory.mktemp("stranger")), "kvpool")
    for own in (who("scheduler"), stranger):
        async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0, own=own) as server:
            assert (await pulled(server.address, shelf, who("kvpool"))).num_blocks == 0


async def test_who_speaks_before_its_certificate_was_looked_at_is_not_heard(who: Who) -> None:
    """Its first frame comes in one piece with the end of the handshake."""
    shelf = Shelf(2, 1000)
    frame = wire.encode(wire.Resolve(NAMESPACE, 0, 1, 1.0))
    async with tcp.serve(shelf, shelf.arena, "127.0.0.1", 0, own=who("kvpool")) as server:
        host, _, port = server.address.rpartition(":")
        loop = asyncio.get_running_loop()
        with socket.socket() as sock:
            sockets.prepare(sock)
            await loop.sock_connect(sock, (host, int(port)))
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            spoken = tls.contexts(who("kvpool"), server=False).now().wrap_bio(incoming, outgoing)
            async with asyncio.timeout(10):
                done = False
                while not done:
                    try:
                        spoken.do_handshake()
                        done = True
                    except ssl.SSLWantReadError:
                        await loop.sock_sendall(sock, outgoing.read())
                        incoming.write(await loop.sock_recv(sock, 65536))
                await loop.sock_sendall(sock, outgoing.read() + frame)
                answer = b""
                while received := await loop.sock_recv(sock, 65536):  # until it hangs up
                    answer += received
    assert wire.encode(wire.Resolved([]))[:4] not in answer
