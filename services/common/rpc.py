"""How services talk gRPC: the options of internal channels, and failures as rich statuses and back.

A `Failure` travels as `google.rpc.Status` in the trailing metadata: `ErrorInfo` (reason, domain `legato`, metadata,
where `field` is the failure's field), `RetryInfo` for `retry_after_seconds`, `BadRequest` for a field. Statuses that
did not come from Legato (a refused connection, an expired deadline) become the nearest reason.
"""

from collections.abc import Sequence
from typing import Any, Final, NoReturn

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from services.common import telemetry, tls
from services.common.errors import DOMAIN, Failure, Reason, reason_named
from services.common.tls import Identity

MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
STATUS_KEY: Final = "grpc-status-details-bin"
"""Where gRPC puts a `google.rpc.Status`."""
_MAX_TEXT_BYTES: Final = 1000  # a status is metadata, of which HTTP/2 peers accept 8 KiB; the text is in it three times
_FIELD: Final = "field"

CHANNEL_OPTIONS: Final[Sequence[tuple[str, Any]]] = (
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 3_000),  # despite its name: how long one attempt to connect may take
    ("grpc.enable_http_proxy", 0),  # clusters set http_proxy for the way out, never for their own nodes
)

_NEAREST: Final = {
    grpc.StatusCode.CANCELLED: Reason.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED: Reason.DEADLINE_EXCEEDED,
    grpc.StatusCode.INVALID_ARGUMENT: Reason.INVALID_ARGUMENT,
    grpc.StatusCode.UNAUTHENTICATED: Reason.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED: Reason.PERMISSION_DENIED,
    grpc.StatusCode.UNAVAILABLE: Reason.UNAVAILABLE,
    grpc.StatusCode.UNIMPLEMENTED: Reason.METHOD_NOT_ALLOWED,
}


def channel(address: str, service: str = "", own: Identity | None = None) -> grpc.aio.Channel:
    """A channel to another service of the cluster. Connects when first used and again, soon, when the peer is back.

    `service`: which one; it must prove that, and we prove who we are: `own`, or else this process (tls.assume). A
    process without an identity, and a socket on this host, talk plain text.
    """
    own = own or tls.own()
    if own is None or address.startswith("unix:"):
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    options = (*CHANNEL_OPTIONS, *tls.channel_options(own, service))
    return grpc.aio.secure_channel(address, tls.channel_credentials(own), options=options)


def trace_metadata() -> tuple[tuple[str, str], ...]:
    """Call metadata that makes the server's span a child of the current one: `stub.Method(..., metadata=...)`."""
    traceparent = telemetry.current_traceparent()
    return ((telemetry.TRACEPARENT, traceparent),) if traceparent else ()


def status_of(failure: Failure) -> Status:
    """The failure as it travels. Texts are cut to what fits in metadata."""
    message = _short(failure.message)
    metadata = {key: _short(value) for key, value in failure.metadata.items()}
    if failure.field is not None:
        metadata[_FIELD] = _short(failure.field)
    details: list[Message] = [ErrorInfo(reason=failure.reason.name, domain=DOMAIN, metadata=metadata)]
    if failure.retry_after_seconds is not None:
        delay = Duration()
        delay.FromNanoseconds(round(failure.retry_after_seconds * 1e9))
        details.append(RetryInfo(retry_delay=delay))
    if failure.field is not None:
        violation = BadRequest.FieldViolation(field=_short(failure.field), description=message)
        details.append(BadRequest(field_violations=[violation]))
    status = Status(code=_code(failure.reason).value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return status


async def abort(context: grpc.aio.ServicerContext[Any, Any], failure: Failure) -> NoReturn:
    """End the RPC with the failure. Raises, as `context.abort` does."""
    status = status_of(failure)
    await context.abort(_code(failure.reason), status.message, ((STATUS_KEY, status.SerializeToString()),))


def failure_from(error: grpc.aio.AioRpcError) -> Failure:
    """The failure that the peer raised; for what is not Legato's, the reason nearest to the status code."""
    message = error.details() or error.code().name
    if message.startswith("failed to connect") and message.endswith("Socket closed") and tls.own() is not None:
        message += " (as it is by a peer that refuses our certificate; its log says why)"
    failure = Failure(_NEAREST.get(error.code(), Reason.INTERNAL), message)
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_KEY:
            _read(failure, value if isinstance(value, bytes) else value.encode())
    return failure


def _read(failure: Failure, serialized: bytes) -> None:
    try:
        status = Status.FromString(serialized)
    except DecodeError:
        return
    for detail in status.details:
        info, retry = ErrorInfo(), RetryInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            failure.reason = reason_named(info.reason)
            failure.metadata = dict(info.metadata)
            failure.field = failure.metadata.pop(_FIELD, None)
        elif detail.Unpack(retry):
            failure.retry_after_seconds = retry.retry_delay.ToNanoseconds() / 1e9


def _code(reason: Reason) -> grpc.StatusCode:
    return grpc.StatusCode[reason.grpc_status]


def _short(text: str) -> str:
    """Valid UTF-8 (a caller's text may hold lone surrogates) of bounded size."""
    return text.encode(errors="replace")[:_MAX_TEXT_BYTES].decode(errors="ignore")
