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
    """A namespace, and this one's address beside it."""

    name: str
    address: str
    own_address: str
    link: str
    """This end of the cable."""

    @property
    def enter(self) -> tuple[str, ...]:
        """What a command begins with that is to run there."""
        return ("nsenter", f"--net=/run/netns/{self.name}")

    def part(self) -> None:
        """Pull the cable."""
        run("ip", "link", "set", self.link, "down")

    def join(self) -> None:
        """Put it back."""
        run("ip", "link", "set", self.link, "up")


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
    suffix = secrets.token_hex(3)
    made = Neighbour(f"lg{suffix}", "10.97.3.2", "10.97.3.1", f"lg{suffix}")
    try:
        run("ip", "netns", "add", made.name)
        run("ip", "link", "add", made.link, "type", "veth", "peer", "name", "eth0", "netns", made.name)
        run("ip", "addr", "add", f"{made.own_address}/24", "dev", made.link)
        run("ip", "-n", made.name, "addr", "add", f"{made.address}/24", "dev", "eth0")
        made.join()
        for device in ("eth0", "lo"):
            run("ip", "-n", made.name, "link", "set", device, "up")
        yield made
    finally:
        subprocess.run(("ip", "netns", "del", made.name), check=False, capture_output=True)
        subprocess.run(("ip", "link", "del", made.link), check=False, capture_output=True)
