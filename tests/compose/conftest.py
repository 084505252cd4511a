"""The stack of compose/compose.yaml, up once for all tests here but test_vllm.py: other engines are simulated."""

import asyncio
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

import legato
from tests.compose import bed
from tests.compose.bed import Docker

SERVICES = ("etcd", "redis", "gateway", "scheduler", "workflow", "kvpool", "worker")
"""All but those whose images cannot be made here."""


@dataclass(frozen=True)
class Stack:
    """It is up and healthy."""

    docker: Docker
    address: str
    """Of the gateway, gRPC."""
    api_key: str
    ca_file: str = ""
    """Who vouches for the gateway; empty: it talks plain text."""

    @property
    def client(self) -> legato.Client:
        """A new client of the gateway."""
        return legato.Client(self.address, api_key=self.api_key, ca_file=self.ca_file)

    def up(self, *flags: str) -> None:
        """Wait until all is healthy."""
        self.docker.compose("up", "--detach", "--wait", "--no-build", *flags, *SERVICES)

    def containers(self, *service: str) -> list[str]:
        """Those that there are, of one service or of all, by name."""
        return sorted(self.docker.compose("ps", "--all", "--format", "{{.Name}}", *service).split())


@contextmanager
def standing(secrets: Path, engine: Mapping[str, str], *packages: str) -> Generator[Stack]:
    """Images made of those groups of packages, and what runs of them, for the length of the context."""
    make_secrets(secrets)
    with bed.docker() as client:
        variables = {**client.variables, **bed.images(client), **engine}
        variables |= {"OTLP_ENDPOINT": "", "PUBLISH": bed.THEIRS, "SECRETS": str(secrets)}
        with bed.wheels(*packages) as pip:
            builder = replace(client, variables={**variables, **pip})
            for service in ("etcd", "gateway", "worker"):
                builder.compose("build", service, timeout=900)
            builder.run("image", "prune", "--force")  # those that were replaced
        made = Stack(replace(client, variables=variables), f"{bed.THEIRS}:8001", (secrets / "api_keys").read_text())
        try:
            made.up()
            yield made
        finally:
            made.docker.compose("down", "--volumes", "--timeout", "20")


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    secrets = tmp_path_factory.mktemp("compose") / "secrets"
    with standing(secrets, {"ENGINE": "services", "WORKER_ENGINE": "simulated"}, "services") as made:
        yield made


def make_secrets(folder: Path) -> None:
    subprocess.run((str(bed.ROOT / "compose" / "secrets.sh"), str(folder)), check=True, capture_output=True)


async def serving(client: legato.Client, num_workers: int) -> bool:
    """Whether so many serve within a minute. The gateway tells only when it is asked."""
    async with asyncio.timeout(60):
        while [model.num_workers for model in await client.models()] != [num_workers]:  # noqa: ASYNC110 (see above)
            await asyncio.sleep(0.2)
    return True


def now() -> str:
    """For Docker.await_event."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
