"""A real redis-server that tests can kill, freeze and start again. It forgets all when it ends, unless told not to."""

import contextlib
import resource
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

from tests.servers import binary, free_port

_START_SECONDS = 10.0


class RedisServer:
    """One server on a unix socket, or on a TCP port of 127.0.0.1 when `port` is given. `durable`: it keeps its data."""

    def __init__(self, folder: Path, port: int = 0, durable: bool = False) -> None:
        self._folder = folder
        self._durable = durable
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}/0" if self._port else f"unix://{self._folder}/redis.sock?db=0"

    def start(self) -> None:
        """Start it and wait until it answers."""
        where = ["--unixsocket", f"{self._folder}/redis.sock"] if not self._port else []
        command = [binary("redis-server"), "--port", str(self._port), "--bind", "127.0.0.1", *where]
        durable = ["--appendonly", "yes" if self._durable else "no", "--dir", str(self._folder)]
        settings = ["--save", "", *durable, "--notify-keyspace-events", "Ex"]
        self._process = subprocess.Popen(
            [*command, *settings],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            restore_signals=False,  # Python ignores SIGXFSZ, and so does Redis then: see fill
        )
        self._await_answer(time.monotonic() + _START_SECONDS)

    def stop(self) -> None:
        """Let it end by itself."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """SIGSTOP: it accepts and reads nothing more, and its connections stay open."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def fill(self, room_bytes: int) -> None:
        """Its disk is as good as full: its newest file may grow by so much only."""
        newest = max(self._folder.glob("appendonlydir/*.incr.aof"), key=lambda file: file.stat().st_mtime_ns)
        self._limit(newest.stat().st_size + room_bytes)

    def free(self) -> None:
        """There is room again."""
        self._limit(resource.RLIM_INFINITY)

    def _limit(self, file_bytes: int) -> None:
        assert self._process is not None
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (file_bytes, resource.RLIM_INFINITY))

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.send_signal(signal.SIGCONT)  # a frozen process takes SIGTERM only when it goes on
            self._process.wait()
            self._process = None

    def _await_answer(self, deadline: float) -> None:
        # The server has no way to say that it listens, so this knocks until it does.
        while True:
            try:
                with self._connection() as connection:
                    connection.sendall(b"PING\r\n")
                    if connection.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                if time.monotonic() > deadline or self._process is None or self._process.poll() is not None:
                    raise
            time.sleep(0.01)

    def _connection(self) -> socket.socket:
        if self._port:
            return socket.create_connection(("127.0.0.1", self._port), timeout=1)
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(1)
        try:
            connection.connect(f"{self._folder}/redis.sock")
        except OSError:
            connection.close()
            raise
        return connection


@contextlib.contextmanager
def redis_server(tcp: bool = False, durable: bool = False) -> Generator[RedisServer]:
    """A running server. Without redis-server on PATH the test is skipped, or fails when CI=true."""
    # Not tmp_path: the path of a unix socket may have 107 characters at most.
    with tempfile.TemporaryDirectory(prefix="legato-redis-") as folder:
        server = RedisServer(Path(folder), free_port() if tcp else 0, durable)
        server.start()
        try:
            yield server
        finally:
            server.kill()
