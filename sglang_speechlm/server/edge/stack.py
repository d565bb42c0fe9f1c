"""What stands around every application of ours, in one order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from starlette.types import ASGIApp

from sglang_speechlm.logs import RequestLog
from sglang_speechlm.server.edge.browser import Browser
from sglang_speechlm.server.edge.keys import KeyCheck, Keys
from sglang_speechlm.server.edge.limits import BodyLimit, Deadline
from sglang_speechlm.server.edge.origins import Origins
from sglang_speechlm.server.edge.target import Target


def behind_the_edge(
    app: ASGIApp,
    *,
    keys: Keys,
    origins: Origins,
    max_body_bytes: int,
    request_seconds: float | None = None,
    unlogged: Sequence[str] = (),
    gate: Callable[[ASGIApp], ASGIApp] | None = None,
) -> ASGIApp:
    """Put an application, a server's or the front's of a fleet, behind what meets every request. Outermost first:

    1. ``RequestLog``: an id and a line for each request, refused ones included.
    2. ``Browser``: what pages may do and see; answers preflights, puts its headers on every answer.
    3. ``Target``: refuses what is no path or has two lengths, and gives each path one spelling.
    4. ``KeyCheck``: asks for the key, or the admin key.
    5. the gate: refuses requests while the server starts or stops, and has those that run end in an answer.
    6. ``Deadline``: ends a request whose time is over.
    7. ``BodyLimit``: refuses what is encoded, too large or too slow.

    Args:
        app: the application.
        keys: that open it.
        origins: pages that it answers.
        max_body_bytes: of a request.
        request_seconds: that a request may take; None is any time.
        unlogged: beginnings of paths that are logged only when they fail.
        gate: wraps what it guards.
    """
    limited: ASGIApp = BodyLimit(app, max_body_bytes)
    if request_seconds is not None:
        limited = Deadline(limited, request_seconds)
    checked = KeyCheck(gate(limited) if gate else limited, keys)
    return RequestLog(Browser(Target(checked), origins), unlogged)
