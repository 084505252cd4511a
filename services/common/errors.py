"""The error table: one reason, its gRPC status, its HTTP status.

Services raise `Failure`; `services.common.rpc` turns it into a gRPC status with `google.rpc.ErrorInfo` (domain
`legato`), the gateway into an OpenAI-shaped HTTP error. Whatever else is raised is a bug: INTERNAL with an error id.
"""
# ruff: noqa: PIE796 (equal rows are distinct members: they are compared by identity)

import dataclasses
from dataclasses import dataclass
from enum import Enum

DOMAIN = "legato"


@dataclass(frozen=True, slots=True, eq=False)  # compared by identity: Enum would take equal rows for one member
class _Row:
    grpc: str
    http: int
    kind: str


_BAD = "invalid_request_error"
_BUSY = "rate_limit_error"
_DOWN = "service_unavailable_error"
_BUG = "internal_server_error"


class Reason(Enum):
    """Why something failed. The name travels on the wire; the value is its row of the table."""

    INVALID_ARGUMENT = _Row("INVALID_ARGUMENT", 400, _BAD)
    CONTEXT_LENGTH_EXCEEDED = _Row("INVALID_ARGUMENT", 400, _BAD)
    BODY_TOO_LARGE = _Row("INVALID_ARGUMENT", 413, _BAD)
    UNAUTHENTICATED = _Row("UNAUTHENTICATED", 401, "authentication_error")
    PERMISSION_DENIED = _Row("PERMISSION_DENIED", 403, "permission_error")
    MODEL_NOT_FOUND = _Row("NOT_FOUND", 404, "not_found_error")
    PATH_NOT_FOUND = _Row("NOT_FOUND", 404, "not_found_error")
    WORKER_NOT_FOUND = _Row("NOT_FOUND", 404, "not_found_error")
    PROGRAM_NOT_FOUND = _Row("NOT_FOUND", 404, "not_found_error")
    SCHEDULER_NOT_FOUND = _Row("NOT_FOUND", 404, "not_found_error")
    METHOD_NOT_ALLOWED = _Row("UNIMPLEMENTED", 405, _BAD)
    CALL_EXISTS = _Row("ALREADY_EXISTS", 409, _BAD)
    IDEMPOTENCY_KEY_REUSED = _Row("INVALID_ARGUMENT", 422, _BAD)
    LEASE_LOST = _Row("FAILED_PRECONDITION", 409, _BAD)
    STALE_TERM = _Row("FAILED_PRECONDITION", 503, _DOWN)
    QUEUE_FULL = _Row("RESOURCE_EXHAUSTED", 429, _BUSY)
    TOO_MANY_CALLS = _Row("RESOURCE_EXHAUSTED", 429, _BUSY)
    DEADLINE_UNREACHABLE = _Row("RESOURCE_EXHAUSTED", 429, _BUSY)
    QUEUE_TIMEOUT = _Row("RESOURCE_EXHAUSTED", 503, _DOWN)
    DEADLINE_EXCEEDED = _Row("DEADLINE_EXCEEDED", 504, "timeout_error")
    CANCELLED = _Row("CANCELLED", 499, "cancelled_error")
    NO_WORKER = _Row("UNAVAILABLE", 503, _DOWN)
    NO_SCHEDULER = _Row("UNAVAILABLE", 503, _DOWN)
    NO_WORKFLOW = _Row("UNAVAILABLE", 503, _DOWN)
    NOT_LEADER = _Row("UNAVAILABLE", 503, _DOWN)
    ENGINE_DEAD = _Row("UNAVAILABLE", 503, _DOWN)
    DRAINING = _Row("UNAVAILABLE", 503, _DOWN)
    UNAVAILABLE = _Row("UNAVAILABLE", 503, _DOWN)
    INTERNAL = _Row("INTERNAL", 500, _BUG)

    @property
    def grpc_status(self) -> str:
        """Name of the `grpc.StatusCode`."""
        return self.value.grpc

    @property
    def http_status(self) -> int:
        return self.value.http

    @property
    def kind(self) -> str:
        """`error.type` of the OpenAI API."""
        return self.value.kind


@dataclass(eq=False)
class Failure(Exception):
    """An expected failure. `message` is shown to the caller and names the field and the limit where there is one."""

    reason: Reason
    message: str
    field: str | None = None
    """Path of the offending field, as the caller wrote it."""
    retry_after_seconds: float | None = None
    metadata: dict[str, str] = dataclasses.field(default_factory=dict[str, str])

    def __str__(self) -> str:
        return f"{self.reason.name}: {self.message}"


def reason_named(name: str) -> Reason:
    """The reason of that name, INTERNAL for one that this version does not know."""
    return Reason.__members__.get(name, Reason.INTERNAL)
