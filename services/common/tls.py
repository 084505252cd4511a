"""Who this process is to the others of its cluster: its certificate, and what its connections are made of.

A process has one identity, which `assume` sets before anything connects or listens, as `telemetry.configure` sets its
logs; without one everything is plain text. Files are read again when they change: after `legato certs --renew` servers
and new channels use the new certificate. A channel keeps, also when it connects again, the one that it was made with,
and the registry's lives as long as its process: restart services one by one before the old ones expire. A client checks
that the server's certificate names the service that it means to call, on whatever host that runs; a server checks with
services/common/access.py whether its caller may call.
"""

import logging
import os
import ssl
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from prometheus_client import Gauge

from services.common.config import SettingsError, TlsSection

_log = logging.getLogger(__name__)

_SOON_DAYS: Final = 14
_EXPIRES: Final = Gauge("legato_certificate_expires_seconds", "Unix time at which this process's certificate expires")


@dataclass(frozen=True, slots=True)
class Pem:
    """What the files hold."""

    authority: bytes
    certificate: bytes
    key: bytes


@dataclass(slots=True)
class Identity:
    """A service of a cluster and the files that prove it. Made by `identity`."""

    cluster: str
    service: str
    ca_file: str
    cert_file: str
    key_file: str
    _read: Pem | None = None
    _read_at: tuple[int, ...] = field(default=())
    """When the files had been written that were read last."""

    def pem(self) -> Pem:
        """As the files are now; where they cannot be used, as they were. Raises SettingsError if they never could."""
        try:
            stamps = tuple(os.stat(file).st_mtime_ns for file in self._files)
            if self._read is None or stamps != self._read_at:
                self._read, self._read_at = self._load(), stamps
        except (OSError, ValueError, SettingsError) as error:
            if self._read is None:
                raise SettingsError(f"[tls] {error}") from None
            _log.warning("the certificate of %s stays as it was: %s", self.service, error)
        return self._read

    @property
    def _files(self) -> tuple[str, str, str]:
        return self.ca_file, self.cert_file, self.key_file

    def _load(self) -> Pem:
        """Raises OSError, ValueError, and SettingsError for what does not belong together."""
        authority, certificate, key = (Path(file).read_bytes() for file in self._files)
        own, issuer = x509.load_pem_x509_certificate(certificate), x509.load_pem_x509_certificate(authority)
        if serialization.load_pem_private_key(key, None).public_key() != own.public_key():
            raise SettingsError(f"{self.key_file} is not the key of {self.cert_file}")
        try:
            own.verify_directly_issued_by(issuer)
        except Exception as error:  # of several kinds, for a wrong name and a wrong signature
            raise SettingsError(f"{self.cert_file} was not issued by {self.ca_file}: {error!r}") from None
        if uri(self.cluster, self.service) not in _uris(own):
            raise SettingsError(f"{self.cert_file} is not the certificate of {uri(self.cluster, self.service)}")
        left = own.not_valid_after_utc - datetime.now(UTC)
        if left.total_seconds() <= 0:
            raise SettingsError(f"{self.cert_file} expired at {own.not_valid_after_utc}: legato certs DIR --renew")
        if left.days < _SOON_DAYS:
            _log.warning("%s expires at %s: legato certs DIR --renew", self.cert_file, own.not_valid_after_utc)
        _EXPIRES.set(own.not_valid_after_utc.timestamp())
        return Pem(authority, certificate, key)


_own: Identity | None = None


def identity(section: TlsSection, cluster: str, service: str) -> Identity | None:
    """What `section` says of a service; None where it says nothing. Raises SettingsError if that cannot be used."""
    if not section.ca_file:
        if section.cert_file or section.key_file:
            raise SettingsError("[tls] ca_file: needed with cert_file and key_file")
        return None
    if not section.cert_file or not section.key_file:
        raise SettingsError("[tls] cert_file and key_file: needed with ca_file")
    cert_file, key_file = (name.replace("{service}", service) for name in (section.cert_file, section.key_file))
    found = Identity(cluster, service, section.ca_file, cert_file, key_file)
    found.pem()
    warn_if_open(key_file)
    return found


def warn_if_open(secret_file: str) -> None:
    """Secrets are their owner's. No more than a warning: some ways to mount them set other modes."""
    if os.stat(secret_file).st_mode & 0o077:
        _log.warning("%s can be read by others than its owner", secret_file)


def assume(found: Identity | None) -> None:
    """Be this from now on, in all connections that are made."""
    global _own  # who we are is the process's own, like its logs
    _own = found


def own() -> Identity | None:
    """Who this process is; None: everything is plain text."""
    return _own


def uri(cluster: str, service: str) -> str:
    """The name of a service in its certificate."""
    return f"legato://{cluster}/{service}"


def service_named(names: Iterable[str], cluster: str) -> str:
    """Whose of the cluster's services a certificate with these names is; empty: nobody's."""
    prefix = uri(cluster, "")
    return next((name.removeprefix(prefix) for name in names if name.startswith(prefix)), "")


def channel_credentials(found: Identity) -> grpc.ChannelCredentials:
    """For a channel that proves who we are."""
    pem = found.pem()
    return grpc.ssl_channel_credentials(pem.authority, pem.key, pem.certificate)


def channel_options(found: Identity, service: str) -> tuple[tuple[str, Any], ...]:
    """Options that make the channel refuse a server which is not that service."""
    return (("grpc.ssl_target_name_override", host_name(found.cluster, service)),)


def host_name(cluster: str, service: str) -> str:
    """The DNS name of a service in its certificate, which is of no host."""
    return f"{service}.{cluster}.legato"


def server_credentials(found: Identity) -> grpc.ServerCredentials:
    """For a server whose callers must prove who they are."""

    def fetch() -> grpc.ServerCertificateConfiguration:
        pem = found.pem()
        return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.authority)

    return grpc.dynamic_ssl_server_credentials(fetch(), fetch, require_client_authentication=True)


def context(found: Identity, *, server: bool) -> ssl.SSLContext:
    """For connections that are not gRPC's: TLS 1.3, both ends must prove who they are. It is the caller's to look at
    `service_of` the peer. A server's takes up renewed files by itself; a client's is made for each connection."""
    pem = found.pem()
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.check_hostname = False
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(cadata=pem.authority.decode())
    made.load_cert_chain(found.cert_file, found.key_file)

    def renew(connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        if found.pem() is not pem:
            connection.context = context(found, server=True)

    if server:
        made.sni_callback = renew  # called for each ClientHello, one without a name too
    return made


def service_of(peer: Mapping[str, Any] | None, cluster: str) -> str:
    """Whose certificate `SSLObject.getpeercert` returned; empty: of no service of the cluster."""
    names: Iterable[tuple[str, str]] = (peer or {}).get("subjectAltName", ())
    return service_named([name for kind, name in names if kind == "URI"], cluster)


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        said = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return said.get_values_for_type(x509.UniformResourceIdentifier)
