"""A cable between a client and a server that can be pulled: what is sent meanwhile arrives when it is back."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator

_MOST_BYTES = 64 * 1024


class Cable:
    """Whole at first. Clients connect to `address`."""

    def __init__(self, to: str) -> None:
        self._to = to
        self._whole = asyncio.Event()
        self._whole.set()
        self.address = ""

    def pull(self) -> None:
        """From now on nothing gets through, and nobody is told."""
        self._whole.clear()

    def join(self) -> None:
        """Put it back."""
        self._whole.set()

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either end closes it."""
        host, _, port = self._to.rpartition(":")
        with contextlib.suppress(OSError), contextlib.closing(writer):
            await self._whole.wait()
            far_reader, far_writer = await asyncio.open_connection(host, int(port))
            with contextlib.closing(far_writer):
                ways = [
                    asyncio.create_task(self._pass_on(*way)) for way in ((reader, far_writer), (far_reader, writer))
                ]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
                    await asyncio.gather(*ways, return_exceptions=True)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while some := await reader.read(_MOST_BYTES):
            await self._whole.wait()
            writer.write(some)
            await writer.drain()


@contextlib.asynccontextmanager
async def cable(to: str) -> AsyncGenerator[Cable]:
    """A cable to host:port for the length of the context."""
    made, connections = Cable(to), set[asyncio.Task[None]]()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(made.carry(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    made.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
