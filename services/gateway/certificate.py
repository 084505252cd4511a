"""The certificate of the gateway's doors, for TLS with clients that need none themselves."""

import logging
import os
import ssl
from pathlib import Path

import grpc

from services.common import tls
from services.common.config import SettingsError

_log = logging.getLogger(__name__)


class Certificate:
    """A PEM file with its chain, and its key. Files that changed are taken up by the connections that come next."""

    def __init__(self, cert_file: str, key_file: str) -> None:
        self._files = cert_file, key_file
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.sni_callback = self._renew  # called for each ClientHello, one without a name too
        self._stamps = self._now()
        self._context.load_cert_chain(cert_file, key_file)

    @property
    def context(self) -> ssl.SSLContext:
        """For HTTP."""
        return self._context

    @property
    def credentials(self) -> grpc.ServerCredentials:
        """For gRPC."""
        return grpc.dynamic_ssl_server_credentials(self._configuration(), self._configuration)

    def _configuration(self) -> grpc.ServerCertificateConfiguration:
        cert_file, key_file = self._files
        return grpc.ssl_server_certificate_configuration([(Path(key_file).read_bytes(), Path(cert_file).read_bytes())])

    def _renew(self, _: ssl.SSLObject, __: str | None, ___: ssl.SSLContext) -> None:
        try:
            stamps = self._now()
            if stamps != self._stamps:
                self._stamps = stamps
                # A context that loads a certificate without its key has none left: tried on another one first.
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*self._files)
                self._context.load_cert_chain(*self._files)
        except OSError as error:
            _log.warning("the doors' certificate stays as it was: %s", error)

    def _now(self) -> tuple[int, ...]:
        return tuple(os.stat(file).st_mtime_ns for file in self._files)


def read(cert_file: str, key_file: str) -> Certificate | None:
    """The certificate; None where there is none. Raises SettingsError."""
    if not cert_file and not key_file:
        return None
    if not cert_file or not key_file:
        raise SettingsError("[gateway] cert_file and key_file: give both or neither")
    try:
        found = Certificate(cert_file, key_file)
        tls.warn_if_open(key_file)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"[gateway] cert_file and key_file: {error}") from None
    return found
