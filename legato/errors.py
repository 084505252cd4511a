"""What the SDK raises. gRPC's own exception is only ever the `__cause__`.

    LegatoError
    ├── InvalidRequest              the request can never succeed as it is; `field` says where
    │   ├── ContextLengthExceeded   prompt and output do not fit the model
    │   └── CallExists              a live call of the program has the same id
    ├── Unauthenticated             who asks is unknown, or may not do this
    ├── NotFound
    │   └── ModelNotFound           no worker serves a model of that name
    ├── Overloaded                  refused for now; `retry_after_seconds` says for how long
    ├── Unavailable                 nobody there: no gateway, no scheduler or no worker; or the gateway died
    ├── DeadlineExceeded            the deadline passed first
    ├── DeadlineUnreachable         the program's deadline cannot be met, so its call was not begun
    ├── CallCancelled               somebody else aborted the call
    └── InternalError               a bug on the other side

`Overloaded` and `Unavailable` have been retried already when they are seen (legato/attempts.py). A call cancelled by
cancelling its own task ends in `asyncio.CancelledError`, as everywhere.
"""

from contextlib import suppress
from typing import ClassVar

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # pyright: ignore[reportMissingTypeStubs]  # has stubs elsewhere

DOMAIN = "legato"
NO_CONNECTION_FILE = "NO_CONNECTION_FILE"
"""Reason of an `Unavailable`: nobody says where the gateways are."""


class LegatoError(Exception):
    """Whatever went wrong between the program and its answer."""

    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        field: str | None = None,
        retry_after_seconds: float | None = None,
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        """Machine-readable, from the table of the services: QUEUE_FULL, MODEL_NOT_FOUND, ..."""
        self.field = field
        """Path of the offending field, where there is one."""
        self.retry_after_seconds = retry_after_seconds
        """How long to wait before another try, where the server said so."""
        self.metadata = metadata or {}
        """What else the server said, such as the error id of a bug."""


class InvalidRequest(LegatoError):
    """The request can never succeed as it is."""

    default_reason = "INVALID_ARGUMENT"


class ContextLengthExceeded(InvalidRequest):
    """Prompt and output do not fit the model's context."""

    default_reason = "CONTEXT_LENGTH_EXCEEDED"


class CallExists(InvalidRequest):
    """A live call of the program has the same id."""

    default_reason = "CALL_EXISTS"


class Unauthenticated(LegatoError):
    """Who asks is unknown, or may not do this."""

    default_reason = "UNAUTHENTICATED"


class NotFound(LegatoError):
    """What the request names is not there."""

    default_reason = "NOT_FOUND"


class ModelNotFound(NotFound):
    """No worker serves a model of that name."""

    default_reason = "MODEL_NOT_FOUND"


class Overloaded(LegatoError):
    """The cluster refuses more work for now."""

    default_reason = "RESOURCE_EXHAUSTED"


class Unavailable(LegatoError):
    """No gateway, no scheduler or no worker answers."""

    default_reason = "UNREACHABLE"


class DeadlineExceeded(LegatoError):
    """The deadline passed before the answer was complete."""

    default_reason = "DEADLINE_EXCEEDED"


class DeadlineUnreachable(LegatoError):
    """The program's deadline cannot be met as things are; the call was not begun, and is not tried again."""

    default_reason = "DEADLINE_UNREACHABLE"


class CallCancelled(LegatoError):
    """Somebody else aborted the call."""

    default_reason = "CANCELLED"


class InternalError(LegatoError):
    """A bug on the other side."""


_BY_REASON: dict[str, type[LegatoError]] = {
    "CONTEXT_LENGTH_EXCEEDED": ContextLengthExceeded,
    "MODEL_NOT_FOUND": ModelNotFound,
    "CALL_EXISTS": CallExists,
    "DEADLINE_UNREACHABLE": DeadlineUnreachable,
}

_BY_STATUS: dict[grpc.StatusCode, type[LegatoError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequest,
    grpc.StatusCode.FAILED_PRECONDITION: InvalidRequest,
    grpc.StatusCode.ALREADY_EXISTS: CallExists,
    grpc.StatusCode.UNAUTHENTICATED: Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: Unauthenticated,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.CANCELLED: CallCancelled,
}


def gateway_gone(failure: LegatoError) -> bool:
    """Whether it says that the gateway is not there, or goes: what it said before may be had from another one."""
    reasons = (Unavailable.default_reason, NO_CONNECTION_FILE, "DRAINING")
    return isinstance(failure, Unavailable) and failure.reason in reasons


def error_from(error: grpc.aio.AioRpcError) -> LegatoError:
    """The exception that says what a failed RPC says: by `google.rpc.ErrorInfo` where there is one, else by status."""
    info = error_details_pb2.ErrorInfo()
    retry = error_details_pb2.RetryInfo()
    violations = error_details_pb2.BadRequest()
    may_retry = False
    for detail in _status_of(error).details:
        with suppress(DecodeError):  # some proxy mangled it; what is left still says enough
            may_retry = detail.Unpack(retry) or may_retry
            _ = detail.Unpack(violations) or detail.Unpack(info)
    if info.domain != DOMAIN:
        info.Clear()
    metadata = dict(info.metadata)
    field = metadata.pop("field", "") or next((violation.field for violation in violations.field_violations), "")
    kind = _BY_REASON.get(info.reason) or _BY_STATUS.get(error.code(), InternalError)
    if error.code() is grpc.StatusCode.CANCELLED and not info.reason:
        kind = Unavailable  # a gateway that stops cuts its calls off so; whoever aborts one gives a reason
    return kind(
        error.details() or error.code().name,
        reason=info.reason,
        field=field or None,
        retry_after_seconds=retry.retry_delay.ToTimedelta().total_seconds() if may_retry else None,
        metadata=metadata,
    )


def _status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """The rich status in the trailing metadata, empty when there is none or it cannot be read."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            with suppress(DecodeError):
                return status_pb2.Status.FromString(value)
    return status_pb2.Status()
