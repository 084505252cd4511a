"""Failures in the shape of the OpenAI API."""

import json
import math
from typing import Final

from services.common.errors import Failure

REASON_HEADER: Final = "x-legato-reason"


def error_body(failure: Failure) -> str:
    """The JSON of an error."""
    error = {
        "message": failure.message,
        "type": failure.reason.kind,
        "param": failure.field,
        "code": failure.reason.name.lower(),
    }
    return json.dumps({"error": error})


def error_headers(failure: Failure) -> dict[str, str]:
    """What else the caller is told: the reason, and when to come back where that helps."""
    headers = {REASON_HEADER: failure.reason.name.lower()}
    if failure.reason.http_status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if failure.retry_after_seconds is not None or failure.reason.http_status in (429, 503):
        headers["Retry-After"] = str(max(1, math.ceil(failure.retry_after_seconds or 0.0)))
    return headers
