"""Clusters with certificates of their own."""

from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from legato import certs
from services.common import tls
from services.common.config import TlsSection
from services.common.tls import Identity

CLUSTER = "test"
NAMES = ("localhost", "127.0.0.1")

Who = Callable[[str], Identity]
"""The identity of a service by its name."""


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of the cluster `test`, which nobody changes."""
    return issued(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def who(certificates: Path) -> Who:
    return lambda service: identity(certificates, service)


@pytest.fixture
def assume() -> Generator[Callable[[Identity], None]]:
    """Makes this process somebody, for one test."""
    yield tls.assume
    tls.assume(None)


def issued(directory: Path, cluster: str = CLUSTER, days: int = 1) -> Path:
    certs.issue(directory, cluster, NAMES, days)
    return directory


def identity(directory: Path, service: str, cluster: str = CLUSTER) -> Identity:
    found = tls.identity(section(directory), cluster, service)
    assert found is not None
    return found


def section(directory: Path) -> TlsSection:
    """As a cluster's settings have it."""
    return TlsSection(
        ca_file=f"{directory}/ca.pem", cert_file=f"{directory}/{{service}}.pem", key_file=f"{directory}/{{service}}.key"
    )
