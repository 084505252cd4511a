"""Real etcd processes for tests, to be killed, frozen and restarted on the same ports and data."""

import signal
import subprocess
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import binary, free_port


@dataclass
class Etcd:
    """One etcd process. `start` does not wait for it: clients do."""

    name: str
    folder: Path
    client_port: int = field(default_factory=free_port)
    peer_port: int = field(default_factory=free_port)
    cluster: str = ""
    """name=peer-url pairs; empty: it stands alone."""
    tls_flags: Sequence[str] = ()
    host: str = "127.0.0.1"
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.client_port}"

    @property
    def client_url(self) -> str:
        return f"{'https' if self.tls_flags else 'http'}://127.0.0.1:{self.client_port}"

    @property
    def peer_url(self) -> str:
        return f"http://127.0.0.1:{self.peer_port}"

    def start(self) -> None:
        command = [
            *(binary("etcd"), "--name", self.name, "--data-dir", str(self.folder / self.name)),
            *("--listen-client-urls", self.client_url, "--advertise-client-urls", self.client_url),
            *("--listen-peer-urls", self.peer_url, "--initial-advertise-peer-urls", self.peer_url),
            *("--initial-cluster", self.cluster or f"{self.name}={self.peer_url}"),
            *("--heartbeat-interval", "50", "--election-timeout", "500", "--logger", "zap"),
            *self.tls_flags,
        ]
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone. Its data stays."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """SIGSTOP: its sockets stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def control(self, *arguments: str) -> str:
        """Run etcdctl against it."""
        command = [binary("etcdctl"), "--endpoints", self.client_url, *arguments]
        environment = {"ETCDCTL_API": "3"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=20).stdout

    def _signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)


@contextmanager
def etcd(folder: Path, *, tls_flags: Sequence[str] = (), host: str = "127.0.0.1") -> Generator[Etcd]:
    """One server for the time of the block, its data in `folder`."""
    server = Etcd("one", folder, tls_flags=tls_flags, host=host)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def etcd_cluster(folder: Path, size: int = 3) -> Generator[list[Etcd]]:
    """A cluster for the time of the block."""
    servers = [Etcd(f"n{number}", folder) for number in range(size)]
    cluster = ",".join(f"{server.name}={server.peer_url}" for server in servers)
    with ExitStack() as stack:
        for server in servers:
            server.cluster = cluster
            stack.callback(server.kill)
            server.start()
        yield servers
