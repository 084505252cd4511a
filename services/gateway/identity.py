"""Whose call is it: the one place that knows.

Resolvers are asked in order; the first that recognises a request names its program. A dialect (a harness's session
header, a body field, the content chain) is one more function in RESOLVERS. A request that nobody recognises is a
program of its own. What a caller claims is checked here, so that ids can be used in keys, paths and headers.
"""

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import SecretStr

from legato.v1 import call_pb2
from services.common.errors import Failure, Reason

MAX_ID_BYTES = 256
MAX_PARENTS = 1024

HEADER = "x-legato-"
PROGRAM_HEADER = "x-legato-program-id"
CALL_HEADER = "x-legato-call-id"
SOURCE_HEADER = "x-legato-identity-source"

_PATH_SAFE = re.compile(r"[A-Za-z0-9_\-.~:@+=,;!$()*]+")  # what a path's segment may hold unquoted


@dataclass(frozen=True, slots=True)
class Identity:
    """A call and where it stands in its program."""

    program_id: str
    call_id: str
    source: str
    """Which resolver recognised it."""
    tenant: str = ""
    agent: str = ""
    thread: str = ""
    step: str = ""
    parents: tuple[str, ...] = ()

    def message(self) -> call_pb2.CallIdentity:
        """As it travels."""
        return call_pb2.CallIdentity(
            program_id=self.program_id,
            call_id=self.call_id,
            tenant=self.tenant,
            agent=self.agent,
            thread=self.thread,
            step=self.step,
            parents=self.parents,
        )

    def choice(self, index: int) -> "Identity":
        """The call that makes the `index`-th of several answers to one request."""
        return self if index == 0 else replace(self, call_id=f"{self.call_id[: MAX_ID_BYTES - 8]}.{index}")

    def headers(self) -> dict[str, str]:
        """What the caller is told."""
        return {PROGRAM_HEADER: self.program_id, CALL_HEADER: self.call_id, SOURCE_HEADER: self.source}


Resolver = Callable[[Mapping[str, str]], Identity | None]
"""Headers (of any case) to an identity with the caller's program id, or None if this dialect is not spoken."""


def _own_headers(headers: Mapping[str, str]) -> Identity | None:
    if not (program_id := headers.get(PROGRAM_HEADER, "")):
        return None
    return replace(_details(headers), program_id=program_id, source="legato")


def _anonymous(headers: Mapping[str, str]) -> Identity | None:
    return _details(headers)


RESOLVERS: Sequence[Resolver] = (_own_headers, _anonymous)
"""In order of precedence; the last one recognises everything."""


def from_headers(headers: Mapping[str, str], tenant_header: str) -> Identity:
    """Identity of an HTTP request. Raises Failure for ids that cannot be used."""
    found = next(identity for resolver in RESOLVERS if (identity := resolver(headers)) is not None)
    tenant = headers.get(tenant_header, "") if tenant_header else ""
    return _checked(replace(found, tenant=tenant), tenant_header)


def from_message(claimed: call_pb2.CallIdentity) -> Identity:
    """Identity of a gRPC request. Raises Failure for ids that cannot be used."""
    identity = Identity(
        program_id=claimed.program_id or fresh_id(),
        call_id=claimed.call_id or fresh_id(),
        source="legato" if claimed.program_id else "anonymous",
        tenant=claimed.tenant,
        agent=claimed.agent,
        thread=claimed.thread,
        step=claimed.step,
        parents=tuple(claimed.parents),
    )
    return _checked(identity, "identity.tenant")


def fresh_id() -> str:
    """An id that nobody has used."""
    return secrets.token_hex(8)


def cache_salt(tenant: str, secret: SecretStr) -> str:
    """What keeps a tenant's KV apart from others'; never what the caller asked for. The default tenant has none."""
    if not tenant:
        return ""
    return hashlib.blake2b(tenant.encode(), key=secret.get_secret_value().encode()[:64], digest_size=16).hexdigest()


def checked_program_id(program_id: str) -> str:
    """The id, if it is one. Raises Failure."""
    _check_id(program_id, "program_id")
    return program_id


def _details(headers: Mapping[str, str]) -> Identity:
    parents = (parent.strip() for parent in headers.get(f"{HEADER}parents", "").split(","))
    return Identity(
        program_id=fresh_id(),
        call_id=headers.get(CALL_HEADER) or fresh_id(),
        source="anonymous",
        agent=headers.get(f"{HEADER}agent", ""),
        thread=headers.get(f"{HEADER}thread", ""),
        step=headers.get(f"{HEADER}step", ""),
        parents=tuple(parent for parent in parents if parent),
    )


def _checked(identity: Identity, tenant_field: str) -> Identity:
    _check_id(identity.program_id, "program_id")
    labels = (
        ("call_id", identity.call_id),
        (tenant_field, identity.tenant),
        ("agent", identity.agent),
        ("thread", identity.thread),
        ("step", identity.step),
        *(("parents", parent) for parent in identity.parents),
    )
    for field, label in labels:
        _check_label(label, field)
    if len(identity.parents) > MAX_PARENTS:
        raise Failure(Reason.INVALID_ARGUMENT, f"parents: at most {MAX_PARENTS}", "parents")
    return identity


def _check_id(text: str, field: str) -> None:
    if not _PATH_SAFE.fullmatch(text) or text in (".", "..") or len(text) > MAX_ID_BYTES:
        message = f"{field} must be 1 to {MAX_ID_BYTES} characters out of A-Z a-z 0-9 _ - . ~ : @ + = , ; ! $ ( ) *"
        raise Failure(Reason.INVALID_ARGUMENT, message, field)


def _check_label(text: str, field: str) -> None:
    if not text.isprintable() or len(text.encode(errors="replace")) > MAX_ID_BYTES:
        message = f"{field} must be printable text of at most {MAX_ID_BYTES} bytes"
        raise Failure(Reason.INVALID_ARGUMENT, message, field)
