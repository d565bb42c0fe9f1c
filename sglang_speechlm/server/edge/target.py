"""Validate the request target and the framing, and give each path one spelling, before anything depends on them."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from sglang_speechlm.server.edge.errors import ApiError, shown

_UNQUOTED = "/!$&'()*+,;=:@"
"""Characters allowed unencoded in a path, besides letters, digits and ``-._~`` (RFC 3986, 3.3)."""
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
"""Characters that no header may have (RFC 9110, 5.5)."""


class Target:
    """Middleware that refuses targets that are not paths, ambiguous framing and control characters in headers.

    It gives each path one spelling. All decisions by path, here and on a server that the request is forwarded to, then
    use the same path: whether a key is needed, which route answers, and where a request goes. HEAD is passed on as GET.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Wrap an application."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            _refuse_two_lengths(scope)
            _refuse_control_characters(scope)
            root = scope.get("root_path", "")
            path = canonical_path(scope["method"], scope["raw_path"][len(root.encode()) :])
        except ApiError as error:
            answer = error.response()
            answer.headers["Connection"] = "close"  # the following bytes may have been meant as part of this request
            await answer(scope, receive, send)
            return
        spelled = {"path": f"{root}{path}", "raw_path": quote(f"{root}{path}", _UNQUOTED).encode()}
        # The HTTP server omits the body of a response to HEAD.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self._app({**scope, **spelled, "method": method}, receive, send)


def route_of(scope: Scope) -> str:
    """Return the path of a request without the prefix that a proxy removes (``--fastapi-root-path``)."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def canonical_path(method: str, raw: bytes) -> str:
    """Return the path of a request target, decoded, without empty segments and without a trailing slash.

    Args:
        method: the request's method.
        raw: its target up to the query, as sent.

    Raises:
        ApiError: 400 if it is not a path: a URL, an authority, ``*``, or a path with ``.`` or ``..`` as a segment, a
            backslash or a control character, even percent-encoded.
    """
    if method == "CONNECT" or not raw.startswith(b"/"):
        raise _refusal(raw, "must be a path, as in GET /v1/models")
    try:
        path = unquote(raw.decode("ascii"), errors="strict")
    except UnicodeDecodeError:
        raise _refusal(raw, "must be UTF-8, percent-encoded") from None
    if "\\" in path or not path.isprintable():
        raise _refusal(raw, "must not contain a backslash or a control character")
    segments = [segment for segment in path.split("/") if segment]
    if not {".", ".."}.isdisjoint(segments):
        raise _refusal(raw, "must not contain '.' or '..' as a segment")
    return "/" + "/".join(segments)


def _refuse_two_lengths(scope: Scope) -> None:
    """Refuse a body with two lengths: servers that use different ones would disagree about its end.

    Raises:
        ApiError: 400 if the body has a Content-Length and is chunked, too.
    """
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
        raise ApiError(400, "Content-Length: must not be sent beside Transfer-Encoding")


def _refuse_control_characters(scope: Scope) -> None:
    """Refuse headers that could not be passed on.

    Raises:
        ApiError: 400 if the value of a header has a control character.
    """
    for name, value in scope["headers"]:
        if _CONTROL.search(value):
            header = name.decode("latin-1").title()
            raise ApiError(400, f"{header}: must not contain a control character; got {shown(value.decode('latin-1'))}")


def _refusal(raw: bytes, what: str) -> ApiError:
    return ApiError(400, f"the request target {what}; got {shown(raw.decode('ascii', 'replace'))}")
