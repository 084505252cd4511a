"""Pools as processes, on one host and on two: a peer that is killed, frozen or cut off costs a bounded wait."""

import json
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from tests.kvpool.node import NUM_BLOCKS, NUM_LENDABLE
from tests.servers.netns import needs_namespaces, run

WAIT_SECONDS = 60


@contextmanager
def node(*arguments: str, namespace: str | None = None) -> Generator[subprocess.Popen[str]]:
    """tests/kvpool/node.py with these arguments, in that network namespace."""
    enter = ["nsenter", f"--net=/run/netns/{namespace}"] if namespace else []
    command = [*enter, sys.executable, "-m", "tests.kvpool.node", *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def pull_while(
    address: str, act: Callable[[], object], timeout_seconds: float, namespace: str | None = None
) -> dict[str, Any]:
    """What comes of a pull during which `act` is done."""
    with node("pull", address, str(timeout_seconds), "pauses", namespace=namespace) as puller:
        assert line(puller) == "came"
        act()
        output, _ = puller.communicate("\n", timeout=WAIT_SECONDS)
    result = json.loads(output)
    assert result["right"]
    assert result["num_told"] == result["num_blocks"]
    return result


def pull(address: str, namespace: str | None = None) -> dict[str, Any]:
    with node("pull", address, "30", "straight", namespace=namespace) as puller:
        return json.loads(line(puller))


def test_a_peer_killed_during_a_pull() -> None:
    with node("lend", "127.0.0.1") as lender:

        def kill() -> None:
            lender.kill()
            lender.wait()

        result = pull_while(line(lender), kill, timeout_seconds=30)
    assert result["stop"] in ("broken", "unreachable")
    assert 1 <= result["num_blocks"] <= NUM_LENDABLE


def test_a_peer_frozen_during_a_pull_and_thawed() -> None:
    with node("lend", "127.0.0.1") as lender:
        address = line(lender)
        result = pull_while(address, lambda: lender.send_signal(signal.SIGSTOP), timeout_seconds=3)
        assert result["stop"] in ("stalled", "late")  # nobody answers, or the wait for an answer was too long
        assert 1 <= result["num_blocks"] <= NUM_LENDABLE
        assert result["seconds"] < 5
        lender.send_signal(signal.SIGCONT)
        assert pull(address)["num_blocks"] == NUM_BLOCKS


@pytest.fixture
def hosts() -> Generator[Sequence[str]]:
    """Two network namespaces, joined; the second one's address is 10.98.0.2."""
    needs_namespaces()
    name = f"lg{secrets.token_hex(3)}"
    names = (f"{name}a", f"{name}b")
    try:
        for host in names:
            run("ip", "netns", "add", host)
        run("ip", "-n", names[0], "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", names[1])
        for i, host in enumerate(names):
            run("ip", "-n", host, "addr", "add", f"10.98.0.{i + 1}/24", "dev", "eth0")
            run("ip", "-n", host, "link", "set", "eth0", "up")
        yield names
    finally:
        for host in names:
            subprocess.run(("ip", "netns", "del", host), check=False, capture_output=True)


def test_pools_of_two_hosts_and_a_network_that_parts_them(hosts: Sequence[str]) -> None:
    here, there = hosts
    with node("lend", "10.98.0.2", namespace=there) as lender:
        address = line(lender)
        whole = pull(address, namespace=here)
        assert (whole["stop"], whole["num_blocks"], whole["right"]) == ("complete", NUM_BLOCKS, True)

        def cut() -> None:
            run("ip", "-n", there, "link", "set", "eth0", "down")

        result = pull_while(address, cut, timeout_seconds=3, namespace=here)
        assert result["stop"] in ("stalled", "late")
        assert 1 <= result["num_blocks"] <= NUM_LENDABLE
        assert result["seconds"] < 5
        run("ip", "-n", there, "link", "set", "eth0", "up")
        while pull(address, namespace=here)["stop"] != "complete":  # the kernel takes a moment to find the way again
            pass
