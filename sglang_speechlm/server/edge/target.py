"""The request line and the framing: a path, in one spelling, and one end, before anything is decided by them."""

from __future__ import annotations

from urllib.parse import quote, unquote

from starlette.types import ASGIApp, Receive, Scope, Send

from sglang_speechlm.server.edge.errors import ApiError, shown

_UNQUOTED = "/!$&'()*+,;=:@"
"""What a path may hold as it is, beside letters, digits and ``-._~`` (RFC 3986, 3.3)."""


class Target:
    """Refuses requests whose target is not a path or whose end is in doubt; gives all other paths one spelling.

    What is decided by a path, here or by a server that it is passed on to, is then decided by the same one: whether a
    key is needed, which route answers, and where a request goes. HEAD is passed on as GET.
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
            root = scope.get("root_path", "")
            path = canonical_path(scope["method"], scope["raw_path"][len(root.encode()) :])
        except ApiError as error:
            answer = error.response()
            answer.headers["Connection"] = "close"  # whatever comes next may have been meant as a part of this
            await answer(scope, receive, send)
            return
        spelled = {"path": f"{root}{path}", "raw_path": quote(f"{root}{path}", _UNQUOTED).encode()}
        # The HTTP server leaves the body out where the method is HEAD.
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        await self._app({**scope, **spelled, "method": method}, receive, send)


def route_of(scope: Scope) -> str:
    """The path of a request without the prefix that a proxy has taken away (``--fastapi-root-path``)."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def canonical_path(method: str, raw: bytes) -> str:
    """The path that a request target names, decoded, without empty segments and without a slash at its end.

    Args:
        method: the request's.
        raw: its target up to the query, as it was sent.

    Raises:
        ApiError: 400 if it is no path: a whole URL, an authority, ``*``, or one with ``.`` or ``..`` as a segment, a
            backslash or a control character, also percent-encoded.
    """
    if method == "CONNECT" or not raw.startswith(b"/"):
        raise _refusal(raw, "must be a path, as in GET /v1/models")
    try:
        path = unquote(raw.decode("ascii"), errors="strict")
    except UnicodeDecodeError:
        raise _refusal(raw, "must be UTF-8, percent-encoded") from None
    if "\\" in path or not path.isprintable():
        raise _refusal(raw, "must not hold a backslash or a control character")
    segments = [segment for segment in path.split("/") if segment]
    if not {".", ".."}.isdisjoint(segments):
        raise _refusal(raw, "must not hold '.' or '..' as a segment")
    return "/" + "/".join(segments)


def _refuse_two_lengths(scope: Scope) -> None:
    """Servers on a request's way that read one each would see its end in different places.

    Raises:
        ApiError: 400 if the body has a length and comes in chunks too.
    """
    if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
        raise ApiError(400, "Content-Length: must not be sent beside Transfer-Encoding")


def _refusal(raw: bytes, what: str) -> ApiError:
    return ApiError(400, f"the request target {what}; got {shown(raw.decode('ascii', 'replace'))}")
