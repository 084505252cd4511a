"""Opening the registry as the settings say."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc

from services.common import tls
from services.common.config import RegistrySection, SettingsError
from services.common.registry.client import Client
from services.common.registry.connection import Connection
from services.common.registry.directory import Registry


@asynccontextmanager
async def connect(section: RegistrySection, cluster: str) -> AsyncGenerator[Registry]:
    """The registry of one cluster. Does not wait for etcd. SettingsError if the section cannot be used."""
    if not section.endpoints:
        raise SettingsError("[registry] endpoints: at least one etcd server (host:port) is needed")
    if "/" in cluster or not cluster:
        raise SettingsError(f"[cluster] name: one word without '/', got {cluster!r}")
    connection = Connection(
        [_endpoint(endpoint) for endpoint in section.endpoints],
        credentials=_credentials(section),
        user=section.user,
        password=section.password.get_secret_value(),
        timeout_seconds=section.lease_seconds,
    )
    try:
        yield Registry(Client(connection), f"/legato/{cluster}", section.lease_seconds)
    finally:
        await connection.close()


def _endpoint(endpoint: str) -> str:
    host, _, port = endpoint.rpartition(":")
    if not host or "//" in endpoint or not port.isdigit():
        raise SettingsError(f"[registry] endpoints: expected host:port, got {endpoint!r}")
    return endpoint


def _credentials(section: RegistrySection) -> grpc.ChannelCredentials | None:
    if bool(section.cert_file) != bool(section.key_file):
        raise SettingsError("[registry] cert_file and key_file: give both or neither")
    if not section.ca_file:
        if section.cert_file:
            raise SettingsError("[registry] ca_file: needed with cert_file")
        return None
    cert_file, key_file = section.cert_file, section.key_file
    if not cert_file and (own := tls.own()) is not None:
        cert_file, key_file = own.cert_file, own.key_file
    try:
        return grpc.ssl_channel_credentials(
            *(Path(file).read_bytes() if file else None for file in (section.ca_file, key_file, cert_file))
        )
    except OSError as error:
        raise SettingsError(f"[registry] {error.filename}: {error.strerror}") from None
