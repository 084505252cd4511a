"""The certificate of the gateway's doors, for TLS with clients that need none themselves."""

import ssl

import grpc

from services.common import tls
from services.common.config import SettingsError
from services.common.fresh import UNUSABLE, Fresh


class Certificate:
    """A PEM file with its chain, and its key. Files that changed are taken up by the connections that come next."""

    def __init__(self, cert_file: str, key_file: str) -> None:
        """Raises OSError, ValueError, SettingsError."""
        self._files = cert_file, key_file
        self._pem = Fresh(self._files, lambda: tls.read(*self._files))
        self._contexts = Fresh(self._files, self._load)

    @property
    def context(self) -> ssl.SSLContext:
        """For HTTP."""
        return tls.listening(self._contexts.now)

    @property
    def credentials(self) -> grpc.ServerCredentials:
        """For gRPC."""
        return tls.server_credentials(self._pem.now)

    def _load(self) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(*self._files)
        return made


def read(cert_file: str, key_file: str) -> Certificate | None:
    """The certificate; None where there is none. Raises SettingsError."""
    if not cert_file and not key_file:
        return None
    if not cert_file or not key_file:
        raise SettingsError("[gateway] cert_file and key_file: give both or neither")
    try:
        found = Certificate(cert_file, key_file)
        tls.warn_if_open(key_file)
    except UNUSABLE as error:
        raise SettingsError(f"[gateway] cert_file and key_file: {error}") from None
    return found
