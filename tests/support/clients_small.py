"""A small HTTP server for tests of the clients: it refuses, fails, hangs and closes as scripted."""

import base64
import contextlib
import io
import threading
import wave
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
from core.command import main
from core.options import Defaults
from core.picture import draw
from core.run import Work

CLIENT = Path(__file__).parents[2] / "clients" / "client_audiogen_cfg.py"

SECONDS = 300
"""Maximum time that a test waits for something that normally takes a moment."""
DEFAULTS = Defaults("x", ("audiogen_cfg",), port=9001, concurrency=4, output="x.jsonl", save_dir="sounds")


def sound(frames: int) -> str:
    """Return a silent WAV file in base64."""
    file = io.BytesIO()
    with wave.open(file, "wb") as writing:
        writing.setnchannels(1)
        writing.setsampwidth(2)
        writing.setframerate(16000)
        writing.writeframes(bytes(2 * frames))
    return base64.b64encode(file.getvalue()).decode()


ANSWER = orjson.dumps(
    {
        "choices": [
            {"message": {"content": "Yes.", "audio": {"data": sound(8000)}}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": 9, "completion_tokens": 30, "completion_tokens_details": {"audio_tokens": 25}},
    }
)
Reply = tuple[int, dict[str, str], bytes]
OK: Reply = (200, {}, ANSWER)


class ScriptedServer:
    """A server with scripted replies; several may use the same port in turn.

    Attributes:
        bodies: the bodies of chat requests, in order of arrival.
        authorizations: the ``Authorization`` headers of all requests.
        most_at_once: the largest number of concurrent requests.
        closed: set when the server is closed.
    """

    def __init__(self, behave: Callable[[int], Reply | None], port: int = 0) -> None:
        """Serve: ``behave`` maps a request's number, from 0, to a reply, or to None to close the connection."""
        self.bodies: list[Any] = []
        self.authorizations: list[str | None] = []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        self.closed = threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.authorizations.append(self.headers["Authorization"])
                self._answer((200, {}, b"{}"))

            def do_POST(self) -> None:
                server.authorizations.append(self.headers["Authorization"])
                body = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    number = len(server.bodies)
                    server.bodies.append(body)
                    server._now += 1
                    server.most_at_once = max(server.most_at_once, server._now)
                reply = behave(number)
                with server._lock:
                    server._now -= 1
                if reply is not None:
                    self._answer(reply)

            def _answer(self, reply: Reply) -> None:
                status, headers, body = reply
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop listening, then release the requests that hang."""
        self._server.shutdown()
        self._server.server_close()
        self.closed.set()


@contextlib.contextmanager
def scripted_server(behave: Callable[[int], Reply | None]) -> Iterator[ScriptedServer]:
    """Yield a running server, closed at the end."""
    server = ScriptedServer(behave)
    try:
        yield server
    finally:
        server.close()


_pictures: dict[Any, bytes] = {}


def run_client(port: int, *options: str, defaults: Defaults = DEFAULTS) -> int:
    """Return the exit status of a client that answers ``in.jsonl``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.picture.draw", _draw_once)
        return main(defaults, ["--port", str(port), "--input", "in.jsonl", *options])


def _draw_once(works: Sequence[Work]) -> bytes:
    """Return the picture of the first run with this outcome: drawing takes fifty times as long as the requests."""
    tallies = [work.results.tally for work in works]
    outcome = tuple((bool(tally.seconds), bool(tally.failures), bool(tally.audio_seconds)) for tally in tallies)
    if outcome not in _pictures:
        _pictures[outcome] = draw(works)
    return _pictures[outcome]


def records(name: str = "x.jsonl", *, torn: bool = False) -> list[Any]:
    """Return the records of a file; with ``torn``, skip a last line that is incomplete."""
    path = Path(name)
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    return [orjson.loads(line) for line in lines if not torn or line.endswith(b"\n")]


def lines(count: int) -> bytes:
    """Return an input file in which each id appears on two lines."""
    examples = [
        {"example_id": f"id{n // 2 * 2}", "messages": [["user", "text", f"Say {n}."]]} for n in range(1, count + 1)
    ]
    return b"".join(orjson.dumps(line) + b"\n" for line in examples)


def texts_of(bodies: list[Any]) -> list[str]:
    return sorted(body["messages"][0]["content"] for body in bodies)


TEXTS = [f"Say {n}." for n in range(1, 7)]
