"""How log records look: JSON lines for machines, one readable line for people."""

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime

from opentelemetry import trace

CALL: ContextVar[tuple[str, str]] = ContextVar("legato_call", default=("", ""))
"""program_id and call_id that the current task works for."""


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts, level, logger, message, service, and where known program_id, call_id, trace_id,
    span_id, exception."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "service": self._service,
            **_origin(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line)


class TextFormatter(logging.Formatter):
    """`12:00:01.234 INFO services.gateway.service message program_id=p call_id=c`, then a traceback if there is one."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s.%(msecs)03d %(levelname)s %(name)s %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # the name is logging's
        origin = "".join(f" {key}={value}" for key, value in _origin().items() if key != "span_id")
        return super().formatMessage(record) + origin


def _origin() -> dict[str, str]:
    program_id, call_id = CALL.get()
    span = trace.get_current_span().get_span_context()
    traced = span.is_valid
    known = {
        "program_id": program_id,
        "call_id": call_id,
        "trace_id": trace.format_trace_id(span.trace_id) if traced else "",
        "span_id": trace.format_span_id(span.span_id) if traced else "",
    }
    return {key: value for key, value in known.items() if value}
