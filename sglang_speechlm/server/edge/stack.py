"""What stands around every application of ours, in one order."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.types import ASGIApp

from sglang_speechlm.logs import RequestLog
from sglang_speechlm.server.edge.keys import KeyCheck
from sglang_speechlm.server.edge.target import Target


def behind_the_edge(app: ASGIApp, keys: Sequence[str], unlogged: Sequence[str] = ()) -> ASGIApp:
    """Put an application, a server's or the front's of a fleet, behind what meets every request. Outermost first:

    1. ``RequestLog``: an id and a line for each request, refused ones included.
    2. ``Target``: refuses what is no path, and gives each path one spelling.
    3. ``KeyCheck``: asks for a key, where there is one.

    Args:
        app: the application.
        keys: any of them opens it; without one it is open to all.
        unlogged: beginnings of paths that are logged only when they fail.
    """
    checked = KeyCheck(app, keys) if keys else app
    return RequestLog(Target(checked), unlogged)
