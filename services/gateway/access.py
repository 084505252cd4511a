"""Who comes in by the gateway's doors: callers with an API key, of which each may be one tenant's.

The file `[gateway] api_keys_file` has a key on each line, and behind it, if it is bound to one, the name of its tenant.
Both doors take `Authorization: Bearer KEY` (in gRPC: metadata). Without a file everybody may do everything. A key that
is bound makes its tenant's calls, sees its tenant's programs and nothing of the cluster; any other key may name each
tenant and do everything. Probes of health need no key; `/metrics` and `/version` do. The file is read when the gateway
starts.
"""

import contextvars
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from aiohttp import web

from legato.v1 import gateway_pb2
from services.common import tls
from services.common.access import Context, Guard
from services.common.config import SettingsError
from services.common.errors import Failure, Reason
from services.gateway.identity import Identity, check_label

_log = logging.getLogger(__name__)

_GATEWAY: Final = f"/{gateway_pb2.DESCRIPTOR.services_by_name['GatewayService'].full_name}/"
_TENANTS_OWN: Final = frozenset(
    _GATEWAY + method for method in ("Chat", "ReportToolSpan", "EndProgram", "ListModels", "ListPrograms", "Explain")
)
"""Methods for keys that are bound to a tenant."""


_BOUND: Final = contextvars.ContextVar("bound", default="")
"""The tenant to which the key of the request that is being handled is bound; empty: to none."""


class Keys:
    """The keys and their tenants. Kept and found by their digests under a key of this process's own, so that neither
    the time of a comparison nor a look at our memory tells one."""

    def __init__(self, tenants: Mapping[str, str]) -> None:
        self._secret = secrets.token_bytes(32)
        self._tenants = {self._digest(key): tenant for key, tenant in tenants.items()}

    def tenant(self, authorization: str) -> str:
        """To whom the header's key is bound; empty: to nobody. Raises Failure."""
        scheme, _, key = authorization.strip().partition(" ")
        if not authorization:
            raise Failure(Reason.UNAUTHENTICATED, "an API key is needed: Authorization: Bearer KEY")
        if scheme.lower() != "bearer":
            raise Failure(Reason.UNAUTHENTICATED, "Authorization: must be Bearer and an API key")
        tenant = self._tenants.get(self._digest(key.strip()))
        if tenant is None:
            raise Failure(Reason.UNAUTHENTICATED, "the API key is not known here")
        return tenant

    def _digest(self, key: str) -> bytes:
        return hashlib.blake2b(key.encode(errors="surrogatepass"), key=self._secret, digest_size=32).digest()


def read(path: str) -> Keys | None:
    """The keys of a file; None for no file. Raises SettingsError."""
    if not path:
        return None
    try:
        tls.warn_if_open(path)
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"[gateway] api_keys_file: {error}") from None
    tenants = _tenants(lines)
    if not tenants:
        raise SettingsError(f"[gateway] api_keys_file: {path} holds no key")
    return Keys(tenants)


def _tenants(lines: Iterable[str]) -> dict[str, str]:
    """What is wrong with a line is told by its number: it may be a key."""
    tenants: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split(maxsplit=1)
        if not words or words[0].startswith("#"):
            continue
        key, tenant = words[0], words[1].strip() if len(words) > 1 else ""
        if key in tenants:
            raise SettingsError(f"[gateway] api_keys_file: line {number} has the key of another line")
        try:
            check_label(tenant, "tenant")
        except Failure as failure:
            raise SettingsError(f"[gateway] api_keys_file: line {number}: {failure.message}") from None
        tenants[key] = tenant
    return tenants


def http_guard(keys: Keys, open_paths: Iterable[str]) -> Callable[..., Awaitable[web.StreamResponse]]:
    """A middleware that lets in who has a key."""
    opened = frozenset(open_paths)

    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path in opened:
            return await handler(request)
        tenant = keys.tenant(request.headers.get("Authorization", ""))
        if tenant and request.path == "/metrics":
            raise _not_for(tenant, "/metrics")
        before = _BOUND.set(tenant)
        try:
            return await handler(request)
        finally:
            _BOUND.reset(before)

    return guard


def grpc_guard(keys: Keys) -> Guard:
    """A guard that lets in who has a key."""

    def guard(method: str, context: Context) -> None:
        said = next((value for name, value in context.invocation_metadata() or () if name == "authorization"), "")
        tenant = keys.tenant(said if isinstance(said, str) else said.decode(errors="replace"))
        if tenant and method not in _TENANTS_OWN:
            raise _not_for(tenant, method.removeprefix(_GATEWAY))
        _BOUND.set(tenant)  # each RPC runs in a context of its own

    return guard


def owned(identity: Identity) -> Identity:
    """The identity under the tenant of the caller's key. Raises Failure if it names another one."""
    return replace(identity, tenant=tenant_of(identity.tenant))


def tenant_of(named: str) -> str:
    """The tenant of a request that names this one. Raises Failure if that is not the caller's."""
    bound = _BOUND.get()
    if bound and named not in ("", bound):
        raise Failure(Reason.PERMISSION_DENIED, f"the API key is of tenant {bound!r}, not {named!r}", "tenant")
    return bound or named


def may_see(tenant: str) -> bool:
    """Whether what is this tenant's may be shown to the caller."""
    return _BOUND.get() in ("", tenant)


def _not_for(tenant: str, what: str) -> Failure:
    return Failure(Reason.PERMISSION_DENIED, f"{what} is not for a key of one tenant ({tenant})")
