"""Docker for tests: a daemon and a network namespace of its own, so that nothing of it is left on this machine.

No image is pulled: a Debian base made here (mmdebstrap) stands in for python, etcd and redis, and packages come from a
folder of wheels that this process serves. All of it is kept in build/compose, so the second time is quick.
"""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest

from tests.servers.netns import run

ROOT = Path(__file__).parents[2]
CACHE = ROOT / "build" / "compose"
_PACKAGES = ("python3", "python3-venv", "openssl", "libnuma1", "redis-server", "etcd-server", "etcd-client")
BASE = f"legato-test-base:{hashlib.sha256(repr(_PACKAGES).encode()).hexdigest()[:16]}"
STAND_IN = "legato-test-stand-in:dev"
OURS, THEIRS = "10.98.7.1", "10.98.7.2"
_LINK, _NAMESPACE = "lgcompose0", "lgcompose"
_WHEELS_PORT = 3141
"""Always the same, at an address that is ours alone: Docker knows layers again by the arguments of the build."""
_GROUPS = Path("/sys/fs/cgroup/cpu")
_NUM_CONTAINERS = 10
_STAND_IN = f"""
FROM {BASE}
RUN cp /usr/bin/etcd /usr/bin/etcdctl /usr/local/bin/ && install --directory --owner 999 --group 999 /data
"""


def missing(what: str) -> NoReturn:
    """Skip, or fail in CI."""
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(what)


@dataclass(frozen=True)
class Docker:
    """The client of that daemon."""

    variables: dict[str, str]
    project: Path = field(default=ROOT / "compose")

    def run(self, *arguments: str, timeout: float = 300.0, input: str | None = None) -> str:
        """`docker ...`; its output. Fails the test with what it said if it fails."""
        environment = {**os.environ, **self.variables}
        command = ("docker", *arguments)
        done = subprocess.run(
            command,
            cwd=self.project,
            env=environment,
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        return done.stdout.strip()

    def compose(self, *arguments: str, timeout: float = 300.0) -> str:
        """`docker compose ...` on compose/compose.yaml."""
        return self.run("compose", *arguments, timeout=timeout)

    def inspect(self, container: str, what: str) -> str:
        """A field of it: a Go template."""
        return self.run("inspect", "--format", what, container)

    def address(self, container: str) -> str:
        """Its own, in the network of the stack."""
        return self.inspect(container, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")

    def reaches(self, container: str, address: str, port: int) -> bool:
        """Whether a container can connect to that."""
        tried = f"timeout 3 bash -c '</dev/tcp/{address}/{port}' 2>/dev/null && echo yes || echo no"
        return self.run("exec", container, "bash", "-c", tried) == "yes"

    @contextmanager
    def cut_off(self, container: str) -> Generator[None]:
        """Pull its cable for the length of the context: what is sent over it is lost without a word."""
        number = self.run("exec", container, "cat", "/sys/class/net/eth0/iflink")
        links = subprocess.run(
            ("ip", "-n", _NAMESPACE, "-json", "link"), check=True, capture_output=True, text=True
        ).stdout
        (cable,) = [link["ifname"] for link in json.loads(links) if link["ifindex"] == int(number)]
        run("ip", "-n", _NAMESPACE, "link", "set", cable, "down")
        try:
            yield
        finally:
            run("ip", "-n", _NAMESPACE, "link", "set", cable, "up")

    def await_event(self, container: str, event: str, since: str, seconds: float = 60.0) -> None:
        """Wait until that has happened to it after `since` (its `now`), such as "start" or "health_status: healthy"."""
        kind = event.partition(":")[0]
        flags = ("--since", since, "--filter", f"container={container}", "--filter", f"event={kind}")
        command = ("docker", "events", *flags, "--format", "{{.Action}}")
        environment = {**os.environ, **self.variables}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as events:
            timer = threading.Timer(seconds, events.kill)
            timer.start()
            try:
                assert events.stdout is not None
                assert any(line.strip() == event for line in events.stdout), f"{container}: no {event} in {seconds} s"
            finally:
                timer.cancel()
                events.kill()


@contextmanager
def docker() -> Generator[Docker]:
    """A daemon for the length of the context."""
    for program in ("dockerd", "docker", "ip", "nsenter", "iptables", "mmdebstrap"):
        if shutil.which(program) is None:
            missing(f"{program} is not installed (Debian: apt-get install docker.io iptables iproute2 mmdebstrap)")
    if os.geteuid():
        missing("a Docker daemon needs root")
    CACHE.mkdir(parents=True, exist_ok=True)
    socket = f"unix://{CACHE}/docker.sock"
    variables = {"DOCKER_HOST": socket, "DOCKER_BUILDKIT": "0", "COMPOSE_PARALLEL_LIMIT": "2", **_plugin()}
    with _namespace(), _daemon(socket):
        yield Docker(variables)


def _plugin() -> dict[str, str]:
    """Where the client finds compose v2. Debian 12 does not have it: then it is taken from Debian 13's package."""
    if subprocess.run(("docker", "compose", "version"), capture_output=True, check=False).returncode == 0:
        return {}
    plugin = CACHE / "client" / "cli-plugins" / "docker-compose"
    if not plugin.exists():
        try:
            subprocess.run(("sh", str(Path(__file__).parent / "plugin.sh"), str(plugin)), check=True, timeout=120)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            missing("docker compose v2 is not installed, and Debian 13's package cannot be had")
    return {"DOCKER_CONFIG": str(CACHE / "client")}


@contextmanager
def _namespace() -> Generator[None]:
    """The daemon's host: its bridges and packet filter are in there, and a cable leads to us."""
    _unplug()  # what a killed run left
    try:
        run("ip", "netns", "add", _NAMESPACE)
        run("ip", "-n", _NAMESPACE, "link", "set", "lo", "up")
        run("ip", "link", "add", _LINK, "type", "veth", "peer", "name", "eth0", "netns", _NAMESPACE)
        run("ip", "addr", "add", f"{OURS}/30", "dev", _LINK)
        run("ip", "link", "set", _LINK, "up")
        run("ip", "-n", _NAMESPACE, "addr", "add", f"{THEIRS}/30", "dev", "eth0")
        run("ip", "-n", _NAMESPACE, "link", "set", "eth0", "up")
        run("ip", "-n", _NAMESPACE, "route", "add", "default", "via", OURS)
        yield
    finally:
        _unplug()


def _unplug() -> None:
    for command in (("ip", "netns", "del", _NAMESPACE), ("ip", "link", "del", _LINK)):
        subprocess.run(command, check=False, capture_output=True)


@contextmanager
def _daemon(socket: str) -> Generator[None]:
    folders = ("--data-root", str(CACHE / "docker"), "--exec-root", str(CACHE / "exec"), "--pidfile", f"{CACHE}/pid")
    networks = ("--bip", "172.31.250.1/24", "--default-address-pool", "base=172.31.0.0/17,size=24")
    enter = ("nsenter", f"--net=/run/netns/{_NAMESPACE}")
    (CACHE / "pid").unlink(missing_ok=True)
    command = (*enter, "dockerd", "--host", socket, *folders, *networks, *_weight())
    with (
        (CACHE / "dockerd.log").open("w") as log,
        subprocess.Popen(command, stdout=log, stderr=subprocess.PIPE, text=True) as process,
    ):
        assert process.stderr is not None
        try:
            for line in process.stderr:  # it ends with the process
                log.write(line)
                if "API listen on" in line:
                    break
            else:
                missing("dockerd does not run here: build/compose/dockerd.log")
            rest = threading.Thread(target=shutil.copyfileobj, args=(process.stderr, log))
            rest.start()
            try:
                yield
            finally:
                process.terminate()  # its containers and mounts go with it
                rest.join()
        finally:
            process.kill()
            _forget_groups()


def _weight() -> tuple[str, ...]:
    """With cgroups v1 all containers together weigh as much as one process: on a busy machine they would starve."""
    if not (_GROUPS / "cpu.shares").exists():
        return ()
    (_GROUPS / _NAMESPACE).mkdir(exist_ok=True)
    (_GROUPS / _NAMESPACE / "cpu.shares").write_text(str(1024 * _NUM_CONTAINERS))
    return ("--cgroup-parent", f"/{_NAMESPACE}")


def _forget_groups() -> None:
    """The daemon removes its containers' groups, but not the one above them."""
    for group in _GROUPS.parent.glob(f"*/{_NAMESPACE}"):
        group.rmdir()


def images(client: Docker) -> dict[str, str]:
    """Make what cannot be pulled; the variables of compose.yaml that name it."""
    archive = CACHE / f"{BASE.replace(':', '-')}.tar"
    if not archive.exists():
        new = archive.with_suffix(".new.tar")
        flags = ("--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io", f"--include={','.join(_PACKAGES)}")
        subprocess.run(("mmdebstrap", *flags, "bookworm", str(new)), check=True, timeout=600)
        new.rename(archive)
    if not client.run("images", "--quiet", BASE):
        client.run("import", str(archive), BASE)
    client.run("build", "--quiet", "--tag", STAND_IN, "-", input=_STAND_IN)
    return {"BASE_IMAGE": BASE, "ETCD_IMAGE": STAND_IN, "REDIS_IMAGE": STAND_IN}


@contextmanager
def wheels(*groups: str) -> Generator[dict[str, str]]:
    """Serve those groups' packages to builds; pip's settings that lead there."""
    wanted = (ROOT / "pyproject.toml").read_bytes() + (ROOT / "constraints.txt").read_bytes() + repr(groups).encode()
    folder = CACHE / "wheels" / hashlib.sha256(wanted).hexdigest()[:16]
    if not folder.exists():
        new = folder.with_suffix(".new")
        # Debian 12 has Python 3.11.2, for which redis wants async-timeout.
        packages = (*(f"--group={group}" for group in groups), "pip==26.3", "async-timeout")
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--constraint", "constraints.txt")
        subprocess.run((*pip, "--dest", str(new), *packages), cwd=ROOT, check=True, capture_output=True, timeout=600)
        new.rename(folder)
    handler = partial(_Quiet, directory=str(folder.parent))
    with http.server.ThreadingHTTPServer((OURS, _WHEELS_PORT), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            place = f"http://{OURS}:{_WHEELS_PORT}/{folder.name}/"
            yield {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": place, "PIP_TRUSTED_HOST": OURS}
        finally:
            server.shutdown()
            thread.join()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""
