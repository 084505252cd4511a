"""Hosts on one machine: network namespaces, joined by a virtual cable."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Neighbour:
    """A namespace behind two cables. One stays, for those who watch; the other can be pulled."""

    name: str
    address: str
    """On the cable that stays."""
    own_address: str
    """Ours, on the cable that stays."""
    far_address: str
    """Ours, on the cable that can be pulled."""

    @property
    def enter(self) -> tuple[str, ...]:
        """What a command begins with that is to run there."""
        return ("nsenter", f"--net=/run/netns/{self.name}")

    def part(self) -> None:
        """Pull the cable: what is sent over it is lost without a word."""
        run("ip", "link", "set", f"{self.name}b", "down")

    def join(self) -> None:
        """Put it back."""
        run("ip", "link", "set", f"{self.name}b", "up")


def needs_namespaces() -> None:
    """Skip, or fail in CI, where network namespaces cannot be made."""
    if os.geteuid() or not shutil.which("ip") or not shutil.which("nsenter"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("needs root, ip and nsenter")


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


@contextmanager
def neighbour() -> Generator[Neighbour]:
    """A host beside this one for the length of the context."""
    needs_namespaces()
    made = Neighbour(f"lg{secrets.token_hex(3)}", "10.97.3.2", "10.97.3.1", "10.97.4.1")
    cables = {f"{made.name}a": ("eth0", "10.97.3"), f"{made.name}b": ("eth1", "10.97.4")}
    try:
        run("ip", "netns", "add", made.name)
        run("ip", "-n", made.name, "link", "set", "lo", "up")
        for link, (other_end, network) in cables.items():
            run("ip", "link", "add", link, "type", "veth", "peer", "name", other_end, "netns", made.name)
            run("ip", "addr", "add", f"{network}.1/24", "dev", link)
            run("ip", "-n", made.name, "addr", "add", f"{network}.2/24", "dev", other_end)
            run("ip", "link", "set", link, "up")
            run("ip", "-n", made.name, "link", "set", other_end, "up")
        yield made
    finally:
        subprocess.run(("ip", "netns", "del", made.name), check=False, capture_output=True)
        for link in cables:
            subprocess.run(("ip", "link", "del", link), check=False, capture_output=True)
