"""The stack of compose/compose.yaml, up once for all tests here. Engines are simulated: vLLM takes gigabytes."""

import subprocess
from collections.abc import Generator
from dataclasses import dataclass, replace
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

    @property
    def client(self) -> legato.Client:
        """A new client of the gateway."""
        return legato.Client(self.address, api_key=self.api_key)

    def up(self, *flags: str) -> None:
        """Wait until all is healthy."""
        self.docker.compose("up", "--detach", "--wait", "--no-build", *flags, *SERVICES)

    def containers(self, *service: str) -> list[str]:
        """Those that there are, of one service or of all, by name."""
        return sorted(self.docker.compose("ps", "--all", "--format", "{{.Name}}", *service).split())


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    secrets = tmp_path_factory.mktemp("compose") / "secrets"
    make_secrets(secrets)
    simulated = {"ENGINE": "services", "WORKER_ENGINE": "simulated", "OTLP_ENDPOINT": "", "PUBLISH": bed.THEIRS}
    with bed.docker() as client:
        variables = {**client.variables, **bed.images(client), **simulated, "SECRETS": str(secrets)}
        with bed.wheels() as pip:
            builder = replace(client, variables={**variables, **pip})
            for service in ("etcd", "gateway", "worker"):
                builder.compose("build", service, timeout=900)
        made = Stack(replace(client, variables=variables), f"{bed.THEIRS}:8001", (secrets / "api_keys").read_text())
        try:
            made.up()
            yield made
        finally:
            made.docker.compose("down", "--volumes", "--timeout", "20")


def make_secrets(folder: Path) -> None:
    subprocess.run((str(bed.ROOT / "compose" / "secrets.sh"), str(folder)), check=True, capture_output=True)
