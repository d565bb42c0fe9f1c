"""The middleware around every application, in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.types import ASGIApp

from sglang_speechlm.logs import RequestLog
from sglang_speechlm.server.edge.browser import Browser
from sglang_speechlm.server.edge.keys import KeyCheck, Keys
from sglang_speechlm.server.edge.limits import BodyLimit, Deadline
from sglang_speechlm.server.edge.origins import Origins, is_loopback_host
from sglang_speechlm.server.edge.target import Target


def behind_the_edge(
    app: ASGIApp,
    *,
    keys: Keys,
    allowed_origins: frozenset[str],
    host: str,
    max_body_bytes: int,
    request_seconds: float | None = None,
    unlogged: Sequence[str] = (),
    gate: Callable[[ASGIApp], ASGIApp] | None = None,
) -> ASGIApp:
    """Wrap a server's application, or that of a fleet's front, in the layers that every request passes. Outermost
    first:

    1. ``RequestLog``: an id and a log line for each request, including refused ones.
    2. ``Browser``: what pages may do and see; answers preflights, adds headers to every response.
    3. ``Target``: refuses targets that are not paths and bodies with two lengths; gives each path one spelling.
    4. ``KeyCheck``: requires the key, or the admin key.
    5. the gate: refuses requests while the server starts or stops; makes running requests end with a response.
    6. ``Deadline``: ends a request at its timeout.
    7. ``BodyLimit``: rejects encoded, oversized and slow bodies.

    Args:
        app: the application.
        keys: its keys.
        allowed_origins: web pages that may use it, besides its own and the loopback's.
        host: the address that it listens on.
        max_body_bytes: limit on a request body.
        request_seconds: timeout of a request; None means no timeout.
        unlogged: prefixes of paths that are logged only if they fail.
        gate: wraps the layers below it.
    """
    limited: ASGIApp = BodyLimit(app, max_body_bytes)
    if request_seconds is not None:
        limited = Deadline(limited, request_seconds)
    checked = KeyCheck(gate(limited) if gate else limited, keys)
    origins = Origins(allowed_origins, is_local=not keys.user and is_loopback_host(host))
    return RequestLog(Browser(Target(checked), origins), unlogged)
