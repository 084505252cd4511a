"""Nodes of a cluster on one machine: network namespaces, each with one cable to a switch that we are on too.

The switch is a bridge in a namespace of its own, so that no firewall of this machine looks at what passes. Pulled
cables lose what is sent over them without a word, as a dead switch port does. Needs root.
"""

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Network:
    """Nodes by name."""

    name: str
    prefix: str
    """The first three numbers of every address."""
    addresses: dict[str, str] = field(default_factory=dict[str, str])

    def enter(self, node: str) -> tuple[str, ...]:
        """What a command begins with that is to run there."""
        return ("nsenter", f"--net=/run/netns/{self._space(node)}")

    def pull(self, node: str) -> None:
        """Pull the node's cable."""
        self._port(node, "down")

    def plug(self, node: str) -> None:
        """Put it back."""
        self._port(node, "up")

    def part(self, nodes: Sequence[str], apart: bool = True) -> None:
        """Nodes that hear everybody but each other; with `apart` unset, each other too again."""
        for node in nodes:
            _run(*self._switch, "bridge", "link", "set", "dev", node, "isolated", "on" if apart else "off")

    def slow(self, node: str, kbit_per_second: int) -> None:
        """Let no more than so much pass over its cable, either way."""
        shape = ("tbf", "rate", f"{kbit_per_second}kbit", "burst", "16kb", "latency", "2s")
        _run(*self._switch, "tc", "qdisc", "replace", "dev", node, "root", *shape)
        _run(*self.enter(node), "tc", "qdisc", "replace", "dev", "eth0", "root", *shape)

    def hurry(self, node: str) -> None:
        """As fast as it can again."""
        _run(*self._switch, "tc", "qdisc", "del", "dev", node, "root")
        _run(*self.enter(node), "tc", "qdisc", "del", "dev", "eth0", "root")

    @property
    def _switch(self) -> tuple[str, ...]:
        return self.enter("switch")

    def _space(self, node: str) -> str:
        return f"{self.name}{node}"

    def _port(self, node: str, state: str) -> None:
        _run("ip", "-n", self._space("switch"), "link", "set", node, state)

    def make(self, nodes: Sequence[str]) -> None:
        """The switch, the nodes and our own cable."""
        switch = self._space("switch")
        _run("ip", "netns", "add", switch)
        _run("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _run("ip", "-n", switch, "link", "set", "bridge", "up")
        self._cable("us", self.name, None)
        _run("ip", "addr", "add", f"{self.prefix}.1/24", "dev", self.name)
        _run("ip", "link", "set", self.name, "up")
        for number, node in enumerate(nodes, 2):
            self.addresses[node] = f"{self.prefix}.{number}"
            space = self._space(node)
            _run("ip", "netns", "add", space)
            _run("ip", "-n", space, "link", "set", "lo", "up")
            self._cable(node, "eth0", space)
            _run("ip", "-n", space, "addr", "add", f"{self.addresses[node]}/24", "dev", "eth0")
            _run("ip", "-n", space, "link", "set", "eth0", "up")

    def _cable(self, port: str, end: str, space: str | None) -> None:
        switch = self._space("switch")
        there = ("netns", space) if space else ()
        # Made in the switch's namespace: names of ports are free there.
        peer = ("peer", "name", end, *(there or ("netns", str(os.getpid()))))
        _run("ip", "-n", switch, "link", "add", port, "type", "veth", *peer)
        _run("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")

    def remove(self) -> None:
        """All of it; what runs there loses its network."""
        for node in (*self.addresses, "switch"):
            subprocess.run(("ip", "netns", "del", self._space(node)), check=False, capture_output=True)
        subprocess.run(("ip", "link", "del", self.name), check=False, capture_output=True)


@contextmanager
def network(nodes: Sequence[str]) -> Generator[Network]:
    """A network for the length of the context. Node names have at most 9 letters."""
    made = Network(f"lg{secrets.token_hex(2)}", f"10.98.{secrets.randbelow(256)}")
    with contextlib.ExitStack() as stack:
        stack.callback(made.remove)
        made.make(nodes)
        yield made


def missing() -> str | None:
    """Why there can be no network here; None: there can."""
    programs = [name for name in ("ip", "bridge", "tc", "nsenter") if not shutil.which(name)]
    if os.geteuid():
        return "it takes root to make network namespaces"
    return f"{', '.join(programs)} not found (Debian: iproute2, util-linux)" if programs else None


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")
