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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from prometheus_client import Gauge

from services.common.config import SettingsError, TlsSection
from services.common.fresh import UNUSABLE, Fresh

_log = logging.getLogger(__name__)

_SOON: Final = timedelta(days=14)
_REMIND: Final = timedelta(days=1)
_EXPIRES: Final = Gauge(
    "legato_certificate_expires_seconds",
    "Unix time at which the certificate expires that this process started with: restart it before",
)


@dataclass(frozen=True, slots=True)
class Pem:
    """What the files hold."""

    certificate: bytes
    """With its chain."""
    key: bytes
    authorities: bytes = b""
    """Who vouches for the other end; nobody: it need not show anything."""


class Identity:
    """A service of a cluster and the files that prove it. Made by `identity`."""

    def __init__(self, cluster: str, service: str, ca_file: str, cert_file: str, key_file: str) -> None:
        """Raises OSError, ValueError, SettingsError."""
        self.cluster, self.service = cluster, service
        self.ca_file, self.cert_file, self.key_file = ca_file, cert_file, key_file
        self._pem = Fresh(self.files, self.read)
        self._remind_at = datetime.now(UTC)

    @property
    def files(self) -> tuple[str, str, str]:
        return self.ca_file, self.cert_file, self.key_file

    def pem(self) -> Pem:
        """As the files are now; where they cannot be used, as they were. Warns once a day before they expire."""
        pem, now = self._pem.now(), datetime.now(UTC)
        if now >= self._remind_at:
            self._remind_at = now + _REMIND
            if (expires := _expires(pem)) - now < _SOON:
                _log.warning("%s expires at %s: legato certs DIR --renew", self.cert_file, expires)
        return pem

    def read(self) -> Pem:
        """Raises OSError, ValueError, and SettingsError for what does not belong together."""
        pem = replace(read(self.cert_file, self.key_file), authorities=Path(self.ca_file).read_bytes())
        own = x509.load_pem_x509_certificate(pem.certificate)
        if not any(_issued(own, authority) for authority in x509.load_pem_x509_certificates(pem.authorities)):
            raise SettingsError(f"{self.cert_file} was not issued by {self.ca_file}")
        if uri(self.cluster, self.service) not in _uris(own):
            raise SettingsError(f"{self.cert_file} is not the certificate of {uri(self.cluster, self.service)}")
        if own.not_valid_after_utc <= datetime.now(UTC):
            raise SettingsError(f"{self.cert_file} expired at {own.not_valid_after_utc}: legato certs DIR --renew")
        return pem


def read(cert_file: str, key_file: str) -> Pem:
    """A certificate and its key. Raises OSError, ValueError, and SettingsError for what does not belong together."""
    pem = Pem(Path(cert_file).read_bytes(), Path(key_file).read_bytes())
    own = x509.load_pem_x509_certificate(pem.certificate)
    if serialization.load_pem_private_key(pem.key, None).public_key() != own.public_key():
        raise SettingsError(f"{key_file} is not the key of {cert_file}")
    return pem


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
    try:
        found = Identity(cluster, service, section.ca_file, cert_file, key_file)
    except UNUSABLE as error:
        raise SettingsError(f"[tls] {error}") from None
    warn_if_open(key_file)
    _EXPIRES.set(_expires(found.pem()).timestamp())
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
    return grpc.ssl_channel_credentials(pem.authorities, pem.key, pem.certificate)


def channel_options(found: Identity, service: str) -> tuple[tuple[str, Any], ...]:
    """Options that make the channel refuse a server which is not that service."""
    return (("grpc.ssl_target_name_override", host_name(found.cluster, service)),)


def host_name(cluster: str, service: str) -> str:
    """The DNS name of a service in its certificate, which is of no host."""
    return f"{service}.{cluster}.legato"


def server_credentials(now: Callable[[], Pem]) -> grpc.ServerCredentials:
    """For a server that shows what `now` returns by then, and whose callers must prove who they are if that names
    authorities."""
    shown = now()

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal shown
        before, shown = shown, now()
        return None if shown is before else _configuration(shown)  # None: gRPC need not parse all of it again

    return grpc.dynamic_ssl_server_credentials(
        _configuration(shown),
        fetch,  # pyright: ignore[reportArgumentType] (its documentation takes None, its stubs do not)
        require_client_authentication=bool(shown.authorities),
    )


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.certificate)], pem.authorities or None)


def contexts(found: Identity, *, server: bool) -> Fresh[ssl.SSLContext]:
    """For connections that are not gRPC's: TLS 1.3, both ends must prove who they are. It is the caller's to look at
    `service_of` the peer. A server's give no tickets: who comes back shows its certificate again."""

    def load() -> ssl.SSLContext:
        pem = found.read()
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
        made.minimum_version = ssl.TLSVersion.TLSv1_3
        made.check_hostname = False
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(cadata=pem.authorities.decode())
        made.load_cert_chain(found.cert_file, found.key_file)
        if server:
            made.num_tickets = 0
        return made

    return Fresh(found.files, load)


def listening(now: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """For a server that takes one context for good: its connections use what `now` returns by then."""
    made = now()

    def renew(connection: ssl.SSLObject, _: str | None, __: ssl.SSLContext) -> None:
        connection.context = now()

    made.sni_callback = renew  # called for each ClientHello, one without a name too
    return made


def service_of(peer: Mapping[str, Any] | None, cluster: str) -> str:
    """Whose certificate `SSLObject.getpeercert` returned; empty: of no service of the cluster."""
    names: Iterable[tuple[str, str]] = (peer or {}).get("subjectAltName", ())
    return service_named([name for kind, name in names if kind == "URI"], cluster)


def _expires(pem: Pem) -> datetime:
    return x509.load_pem_x509_certificate(pem.certificate).not_valid_after_utc


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # of several kinds, for a wrong name and a wrong signature
        return False
    return True


def _uris(certificate: x509.Certificate) -> list[str]:
    try:
        said = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return said.get_values_for_type(x509.UniformResourceIdentifier)
