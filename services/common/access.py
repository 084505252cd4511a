"""Which service may call what of which other, by the certificates that both show. What is not in the table nobody may.

Without [tls] nothing is checked: who reaches a port may call. The socket that a KV pool has for its host's workers is
plain and guarded by the modes of its directory: whoever can open it may call. Health and reflection are for all who
have a certificate. The gateway's own door has keys instead (services/gateway/access.py).
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

import grpc

from services.common import tls
from services.common.errors import Failure, Reason
from services.common.tls import Identity

_log = logging.getLogger(__name__)

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Guard: TypeAlias = Callable[[str, Context], None]
"""Told of each RPC's method ("/package.Service/Method") before its handler runs. Raises Failure to refuse it."""

_SCHEDULER, _WORKER = "/legato.v1.SchedulerService/", "/legato.v1.WorkerService/"
_POOL, _WORKFLOW = "/legato.v1.KVPoolService/", "/legato.v1.WorkflowService/"

CALLERS: Final[Mapping[str, frozenset[str]]] = {
    method: frozenset(callers)
    for method, callers in {
        _SCHEDULER + "Schedule": ("gateway",),
        _SCHEDULER + "Attend": ("scheduler",),
        _SCHEDULER + "ListWorkers": ("gateway", "operator"),
        _SCHEDULER + "ListPrograms": ("gateway", "operator"),
        _SCHEDULER + "ListPools": ("gateway", "operator"),
        _SCHEDULER + "SetWorkerRole": ("gateway", "operator"),
        _WORKER + "Describe": ("gateway", "scheduler", "operator"),
        _WORKER + "Generate": ("gateway", "operator"),  # an operator calibrates idle workers
        _WORKER + "Watch": ("scheduler",),
        _WORKER + "SetRole": ("scheduler",),
        _POOL + "Attach": ("worker",),
        _POOL + "Acquire": ("worker",),
        _POOL + "Release": ("worker",),
        _POOL + "BeginStore": ("worker",),
        _POOL + "Commit": ("worker",),
        _POOL + "Abort": ("worker",),
        _POOL + "FinishCall": ("worker",),
        _POOL + "MatchPrefix": ("worker", "scheduler"),
        _POOL + "Prefetch": ("scheduler",),
        _POOL + "Demote": ("scheduler",),
        _POOL + "ReleaseProgram": ("scheduler",),
        _POOL + "WatchReplicas": ("scheduler",),
        _POOL + "Status": ("scheduler", "operator"),
        _WORKFLOW + "WatchForecasts": ("scheduler", "kvpool"),
        _WORKFLOW + "Explain": ("gateway", "operator"),
        _WORKFLOW + "ReadLog": ("gateway", "operator"),
    }.items()
}
DATA_PLANE: Final = frozenset({"kvpool"})
"""Who may pull blocks from a pool."""
METRICS: Final = frozenset({"operator"})
"""Who may read a service's /metrics."""


def guard_of(own: Identity) -> Guard:
    """Refuses callers that are not in the table's row, with PERMISSION_DENIED."""

    def check(method: str, context: Context) -> None:
        if context.peer().startswith("unix:"):
            return
        caller = tls.service_named(_names(context), own.cluster)
        if caller not in CALLERS.get(method, ()):
            _log.warning("refused %s to %s at %s", method, caller or "a stranger", context.peer())
            who = f"the {caller}" if caller else f"who is no service of {own.cluster}"
            raise Failure(Reason.PERMISSION_DENIED, f"{who} may not call {method}")

    return check


def _names(context: Context) -> list[str]:
    found: Mapping[str, Any] = context.auth_context()
    return [name.decode(errors="replace") for name in found.get("x509_subject_alternative_name", ())]
