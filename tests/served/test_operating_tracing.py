"""SGLang's own tracing, if its packages are installed: a client's trace continues through all routes."""

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from server import BY_NAME, Client, Server, serving, wait_for

from launch.setup import read_lock

REQUIREMENTS = Path(__file__).parents[2] / "launch" / "requirements"
EXPORTERS = [f"opentelemetry.exporter.otlp.proto.{kind}.trace_exporter" for kind in ("http", "grpc")]
PARENT = "b7ad6b7169203331"

Span = tuple[str, str, str]
"""Trace id, parent id, name."""


@pytest.fixture(scope="module")
def spans() -> Iterator[tuple[str, list[Span]]]:
    """Yield the URL of a collector and the spans that it has received."""
    reason = "pip install --no-deps -r launch/requirements/tracing.txt"
    for exporter in EXPORTERS:
        pytest.importorskip(exporter, reason=reason)
    messages = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason=reason)

    received: list[Span] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in messages.ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    received.extend((s.trace_id.hex(), s.parent_span_id.hex(), s.name) for s in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{collector.server_address[1]}/v1/traces", received
        collector.shutdown()


@pytest.fixture(scope="module")
def traced(
    spans: tuple[str, list[Span]], served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    options = ("--max-total-tokens", "8192", "--enable-trace", "--otlp-traces-endpoint", spans[0])
    environment = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}
    log = tmp_path_factory.mktemp("traced") / "log"
    with serving(served_checkpoint, log, *options, environment=environment) as started:
        yield started


@pytest.mark.parametrize(
    ("number", "path", "body", "stages"),
    [
        (1, "/v1/chat/completions", BY_NAME["spoken"].body(), 2),
        (2, "/v1/chat/completions", BY_NAME["given text"].body(cfg=3.0), 1),
        (3, "/generate", {"text": "Hello", "sampling_params": {"max_new_tokens": 2}}, 1),
    ],
)
def test_a_trace_continues_in_every_stage(
    number: int, path: str, body: dict[str, Any], stages: int, traced: Server, spans: tuple[str, list[Span]]
) -> None:
    trace = f"{number:032x}"
    with Client(traced.url) as client:
        headers = {"traceparent": f"00-{trace}-{PARENT}-01"}
        assert client.http.post(path, json=body, headers=headers).status_code == 200

    def started_stages() -> int:
        return sum(span[:2] == (trace, PARENT) and span[2].strip().startswith("Req ") for span in spans[1])

    assert wait_for(lambda: started_stages() == stages)


def test_the_lock_is_sorted_and_agrees_with_the_profiles() -> None:
    tracing = read_lock(REQUIREMENTS / "tracing.txt")
    assert list(tracing) == sorted(tracing)
    for name in ("base", "cpu", "cuda"):
        pins = read_lock(REQUIREMENTS / f"{name}.txt")
        assert {package: pins.get(package, version) for package, version in tracing.items()} == tracing
