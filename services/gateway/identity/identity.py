"""A call's identity, and what may stand in one: ids are used in keys, paths and headers, so they are checked here."""

import hashlib
import re
import secrets
from collections.abc import Mapping
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
    """Which dialect named its program, and how sure that is where it is inferred."""
    tenant: str = ""
    agent: str = ""
    thread: str = ""
    step: str = ""
    parents: tuple[str, ...] = ()
    workflow: str = ""

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
            workflow=self.workflow,
        )

    def choice(self, index: int) -> "Identity":
        """The call that makes the `index`-th of several answers to one request."""
        return self if index == 0 else replace(self, call_id=f"{self.call_id[: MAX_ID_BYTES - 8]}.{index}")

    def headers(self) -> dict[str, str]:
        """What the caller is told."""
        return {PROGRAM_HEADER: self.program_id, CALL_HEADER: self.call_id, SOURCE_HEADER: self.source}


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
        workflow=claimed.workflow,
    )
    return _checked(identity, "identity.tenant")


def from_headers(headers: Mapping[str, str], tenant_header: str, path: str = "") -> Identity:
    """What our own headers say, and the program that the request's path names.

    A program that they do not name is a new one, of the source "anonymous". Raises Failure for ids that cannot be used.
    """
    parents = (parent.strip() for parent in headers.get(f"{HEADER}parents", "").split(","))
    named = headers.get(PROGRAM_HEADER, "")
    identity = Identity(
        program_id=named or path or fresh_id(),
        call_id=headers.get(CALL_HEADER) or fresh_id(),
        source="legato" if named else "path" if path else "anonymous",
        tenant=headers.get(tenant_header, "") if tenant_header else "",
        agent=headers.get(f"{HEADER}agent", ""),
        thread=headers.get(f"{HEADER}thread", ""),
        step=headers.get(f"{HEADER}step", ""),
        parents=tuple(parent for parent in parents if parent),
        workflow=headers.get(f"{HEADER}workflow", ""),
    )
    return _checked(identity, tenant_header)


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


def _checked(identity: Identity, tenant_field: str) -> Identity:
    _check_id(identity.program_id, "program_id")
    labels = (
        ("call_id", identity.call_id),
        (tenant_field, identity.tenant),
        ("agent", identity.agent),
        ("thread", identity.thread),
        ("step", identity.step),
        ("workflow", identity.workflow),
        *(("parents", parent) for parent in identity.parents),
    )
    for field, label in labels:
        check_label(label, field)
    if len(identity.parents) > MAX_PARENTS:
        raise Failure(Reason.INVALID_ARGUMENT, f"parents: at most {MAX_PARENTS}", "parents")
    return identity


def usable_id(foreign: str, tenant: str, key: bytes) -> str:
    """A program id for what another dialect calls a session.

    One that could not be a program id is hashed into one rather than refused: whoever chose it does not know our rules.
    Tenants may choose the same; each has its own, whose name nobody without the key can guess.
    """
    if not tenant and _is_id(foreign):
        return foreign
    text = f"{len(tenant)}:{tenant}{foreign}".encode(errors="surrogatepass")
    digest = hashlib.blake2b(text, digest_size=8, key=key[:64]).hexdigest()
    readable = f"{foreign}@{digest}"
    return readable if _is_id(readable) else f"session-{digest}"


def bounded(foreign: str) -> str:
    """What another dialect calls a session, as far as it is worth remembering."""
    if len(foreign) <= MAX_ID_BYTES:
        return foreign
    return hashlib.blake2b(foreign.encode(errors="surrogatepass"), digest_size=16).hexdigest()


def usable_label(foreign: str) -> str:
    """The same for what names an agent, a thread or a step."""
    if _is_label(foreign):
        return foreign
    return hashlib.blake2b(foreign.encode(errors="surrogatepass"), digest_size=8).hexdigest()


def _is_id(text: str) -> bool:
    return bool(_PATH_SAFE.fullmatch(text)) and text not in (".", "..") and len(text) <= MAX_ID_BYTES


def _is_label(text: str) -> bool:
    return text.isprintable() and len(text.encode(errors="replace")) <= MAX_ID_BYTES


def _check_id(text: str, field: str) -> None:
    if not _is_id(text):
        message = f"{field} must be 1 to {MAX_ID_BYTES} characters out of A-Z a-z 0-9 _ - . ~ : @ + = , ; ! $ ( ) *"
        raise Failure(Reason.INVALID_ARGUMENT, message, field)


def check_label(text: str, field: str) -> None:
    """Of what names an agent, a thread, a tool and their like. Raises Failure."""
    if not _is_label(text):
        message = f"{field} must be printable text of at most {MAX_ID_BYTES} bytes"
        raise Failure(Reason.INVALID_ARGUMENT, message, field)
