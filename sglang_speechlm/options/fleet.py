"""The launcher's options for several workers, and what they share with a single server's."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sglang_speechlm import logs
from sglang_speechlm.options.server import add_allowed_origins
from sglang_speechlm.options.sglang_args import key_complaints
from sglang_speechlm.server.edge.keys import Keys

ROUTINGS = ("round_robin", "cache_aware")
GIBIBYTE = 1 << 30
ROUTER_MAX_BYTES = GIBIBYTE // 2
"""Of a request's body, as smg has it by default."""

_AUTHORITY = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d+)?", re.IGNORECASE | re.ASCII)
_ONE_WORKERS_OWN = ("--nnodes", "--node-rank", "--dist-init-addr", "--nccl-init-addr", "--nccl-port")


@dataclass(frozen=True)
class FleetOptions:
    """What an operator decided about a fleet.

    Attributes:
        workers: that run here.
        urls: of workers that run elsewhere.
        routing: how the router chooses, one of ``ROUTINGS``.
        host, port: where the front listens.
        tls: uvicorn's options for the certificate, by name; empty without one.
        first_gpu: of the first worker here.
        gpus_each: tensor-parallel ranks of a worker.
        keys: that open the front; the user's is the workers' as well.
        allowed_origins: of web pages that are answered, beside the front's own and the loopback's.
        max_body_bytes: of a request's body.
        request_seconds: for one request.
        drain_seconds: that running answers have once the fleet is told to stop.
        log_format, log_level: of the lines that the front writes.
        model_path: of the workers here.
        worker_arguments: of each worker here, as they were given.
    """

    workers: int
    urls: tuple[str, ...]
    routing: str
    host: str
    port: int
    tls: dict[str, Any]
    first_gpu: int
    gpus_each: int
    keys: Keys
    allowed_origins: frozenset[str]
    max_body_bytes: int
    request_seconds: float
    drain_seconds: float
    log_format: str
    log_level: str
    model_path: str | None
    worker_arguments: tuple[str, ...]


def add_fleet_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options that make a fleet; ``--dp 1`` is one of a single worker, which is started again when it ends."""
    parser.add_argument(
        "--dp",
        type=_count,
        metavar="N",
        help="workers, each a server of its own on the next --tp GPUs, behind one port; a worker that dies or hangs is "
        "started again, later and later. Without it there is one server alone, which ends when a part of it does. "
        "--dp-size is SGLang's own data parallelism, inside of one server",
    )
    parser.add_argument(
        "--worker-urls",
        type=_url,
        nargs="+",
        default=(),
        metavar="URL",
        help="put workers that run elsewhere behind the port as well, or, without --dp and --model-path, only those; "
        "they take the same --api-key",
    )
    parser.add_argument(
        "--routing",
        choices=ROUTINGS,
        default=ROUTINGS[0],
        help="which worker a chat request goes to (default: %(default)s: each in turn, bodies byte for byte). "
        "cache_aware: the one that has most of its prompt in its cache; then the body is rewritten, unknown keys of "
        "messages are lost (an earlier answer's audio among them, so such requests are taken past it, as are those "
        "that the router refuses: without 'model', or with a temperature above 2 or n above 10)",
    )


def is_fleet(arguments: Sequence[str]) -> bool:
    """Whether these arguments ask for workers behind a front."""
    parsed, _ = _fleet_parser().parse_known_args(list(arguments))
    return bool(parsed.worker_urls) or parsed.dp is not None


def read(arguments: Sequence[str]) -> FleetOptions:
    """Out of the arguments of a launcher.

    Raises:
        ValueError: if they contradict themselves.
        SystemExit: as argparse does.
    """
    parsed, rest = _parser().parse_known_args(list(arguments))
    shared, _ = _shared_parser().parse_known_args(rest)
    workers = parsed.dp if parsed.dp is not None else 0 if parsed.worker_urls and parsed.model_path is None else 1
    if workers and parsed.model_path is None:
        raise ValueError("--model-path: it must be given for workers that are started here")
    if parsed.dp is not None:
        _refuse(rest)
    if complaints := key_complaints(shared):
        raise ValueError("; ".join(complaints))
    if bool(parsed.ssl_keyfile) != bool(parsed.ssl_certfile):
        raise ValueError("--ssl-keyfile, --ssl-certfile: one does not go without the other")
    tls = {name: value for name in _TLS if (value := getattr(parsed, name)) is not None}
    return FleetOptions(
        workers=workers,
        urls=tuple(dict.fromkeys(parsed.worker_urls)),
        routing=parsed.routing,
        host=parsed.host,
        port=parsed.port,
        tls=tls,
        first_gpu=parsed.base_gpu_id,
        gpus_each=shared.tp,
        keys=Keys(shared.api_key, shared.admin_api_key),
        allowed_origins=shared.allowed_origins,
        max_body_bytes=min(round(shared.max_body_mib * (1 << 20)), ROUTER_MAX_BYTES),
        request_seconds=shared.request_timeout_secs,
        drain_seconds=shared.drain_timeout,
        log_format=shared.log_format,
        log_level=shared.log_level,
        model_path=parsed.model_path,
        worker_arguments=tuple(rest),
    )


_TLS = ("ssl_keyfile", "ssl_certfile", "ssl_ca_certs", "ssl_keyfile_password")


def _fleet_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sglang_speechlm.launch", add_help=False, allow_abbrev=False)
    add_fleet_options(parser)
    return parser


def _parser() -> argparse.ArgumentParser:
    """Of what the fleet keeps from its workers."""
    parser = _fleet_parser()
    parser.add_argument("--model-path", "--model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=30000)
    parser.add_argument("--base-gpu-id", type=int, default=0)
    for name in _TLS:
        parser.add_argument(f"--{name.replace('_', '-')}")
    return parser


def _shared_parser() -> argparse.ArgumentParser:
    """Of what the workers are told as well; they check it themselves, and a worker that refuses it ends the fleet."""
    parser = argparse.ArgumentParser(prog="python -m sglang_speechlm.launch", add_help=False, allow_abbrev=False)
    parser.add_argument("--tp", "--tp-size", "--tensor-parallel-size", type=_count, default=1)
    parser.add_argument("--api-key")
    parser.add_argument("--admin-api-key")
    add_allowed_origins(parser)
    parser.add_argument("--max-body-mib", type=float, default=128.0)
    parser.add_argument("--request-timeout-secs", type=float, default=3600.0)
    parser.add_argument("--drain-timeout", type=float, default=30.0)
    parser.add_argument("--log-format", choices=logs.FORMATS, default="text")
    parser.add_argument("--log-level", default="info")
    return parser


def _refuse(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in _ONE_WORKERS_OWN:
        parser.add_argument(name, dest=name)
    given, _ = parser.parse_known_args(list(arguments))
    if found := [name for name, value in vars(given).items() if value is not None]:
        raise ValueError(
            f"{', '.join(found)}: belongs to one worker and does not go with --dp; start each worker that spans "
            "several nodes by itself, and put them behind one port with --worker-urls"
        )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1; got {text}")
    return int(text)


def _url(text: str) -> str:
    return checked_url(text, argparse.ArgumentTypeError)


def checked_url(text: str, error: type[Exception] = ValueError) -> str:
    """A worker's URL as it is kept: scheme, host and port, no path.

    Raises:
        Exception: ``error``, if it is none.
    """
    try:
        parts = urlsplit(text)
        is_whole = parts.scheme in ("http", "https") and (parts.port or 80) > 0
    except ValueError:
        is_whole = False
    if not is_whole or not _AUTHORITY.fullmatch(parts.netloc) or parts.path.strip("/") or parts.query or parts.fragment:
        raise error(f"must be http(s)://HOST:PORT; got {text!r}")
    return f"{parts.scheme}://{parts.netloc}"
