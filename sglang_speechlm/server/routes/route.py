"""Common code of all routes: how they fail."""

from __future__ import annotations

import errno
import functools
import logging
import os
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from sglang_speechlm import logs
from sglang_speechlm.codec import CodecError
from sglang_speechlm.program.engine import StageRefused
from sglang_speechlm.server.edge.connection import ClientGone
from sglang_speechlm.server.edge.errors import ApiError, internal_error
from sglang_speechlm.server.edge.limits import deadline_of
from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.service import Service

logger = logging.getLogger(__name__)

Refused = ApiError | StageRefused | CodecError
REFUSALS = (ApiError, StageRefused, CodecError)
"""Expected failures of an answer; any other exception is an internal error."""

_LACKS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOSPC)
"""The system has no file handle, memory, process or disk space left; the request itself is not at fault."""

Handler = Callable[[Request, Service, float], Awaitable[Response]]
"""Takes the request, the service, and the deadline in event loop time."""


def route(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """Turn a handler into an endpoint: its exceptions become error responses.

    The request's ``Warnings`` go into a header of the response.
    """

    @functools.wraps(handler)
    async def endpoint(http: Request) -> Response:
        service: Service = http.app.state.speechlm
        try:
            response = await handler(http, service, deadline_of(http))
            response.headers.update(Warnings.of(http).headers())
            return response
        except REFUSALS as error:
            return refusal(error).response()
        except (ClientGone, ClientDisconnect):
            return Response(status_code=499)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _LACKS:
                logger.error("Request %s to %s: %s", logs.current_id(), http.url.path, error)
                return ApiError(503, f"a system resource is exhausted: {os.strerror(error.errno)}").response()
            logger.exception("Request %s to %s failed", logs.current_id(), http.url.path)
            return internal_error().response()

    return endpoint


def refusal(error: Refused) -> ApiError:
    """Return the error for the client, with Retry-After only if a retry would not generate anything again."""
    match error:
        case ApiError():
            return error
        case StageRefused(status=status, is_temporary=is_temporary):
            return ApiError(status, str(error), retry_after=1 if is_temporary else None)
        case _:
            return ApiError(503, str(error))
