"""What surrounds every HTTP handler: failures, unknown paths and bugs become errors in the API's shape."""

import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from services.common.errors import Failure, Reason
from services.gateway import metrics
from services.gateway.openai.errors import error_body, error_headers

_log = logging.getLogger(__name__)

HEADERS: Final = web.RequestKey("headers", dict[str, str])
"""Headers that the answer to this request has even if it is an error."""

_REASONS: Final = {
    404: Reason.PATH_NOT_FOUND,
    405: Reason.METHOD_NOT_ALLOWED,
    413: Reason.BODY_TOO_LARGE,
}


@web.middleware
async def boundary(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """The middleware."""
    try:
        return await handler(request)
    except Failure as error:
        failure = error
    except web.HTTPException as error:
        failure = _refusal(request, error)
    except ConnectionResetError:
        metrics.ERRORS.labels("http", "cancelled").inc()
        return web.Response(status=Reason.CANCELLED.http_status)  # for nobody; raised on, it is logged as a bug
    except Exception as error:
        error_id = uuid.uuid4().hex[:12]
        _log.error("error %s in %s %s", error_id, request.method, request.path, exc_info=error)
        failure = Failure(Reason.INTERNAL, f"internal error {error_id}")
    metrics.ERRORS.labels("http", failure.reason.name.lower()).inc()
    response = web.Response(
        text=error_body(failure),
        status=failure.reason.http_status,
        content_type="application/json",
        headers={**request.get(HEADERS, {}), **error_headers(failure)},
    )
    if request.can_read_body:
        response.force_close()  # what is left of the body would have to be read before the next request
    return response


def _refusal(request: web.Request, error: web.HTTPException) -> Failure:
    """aiohttp's own refusals."""
    reason = _REASONS.get(error.status, Reason.INVALID_ARGUMENT if error.status < 500 else Reason.INTERNAL)
    path = request.path if len(request.path) <= 100 else f"{request.path[:100]}..."
    return Failure(reason, f"{request.method} {path}: {error.reason}")
