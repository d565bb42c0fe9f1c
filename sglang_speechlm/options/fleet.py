"""The launcher's options for several workers, and those that they share with a single server."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from sglang_speechlm.options.shared import (
    TLS,
    SharedOptions,
    add_shared_options,
    address_complaints,
    count,
    key_complaints,
    named,
    shared_values,
    tls_complaints,
)
from sglang_speechlm.server.edge.keys import Keys

ROUTINGS = ("round_robin", "cache_aware")
GIBIBYTE = 1 << 30
ROUTER_MAX_BYTES = GIBIBYTE // 2
"""The router's limit on a request body, smg's default."""

_AUTHORITY = re.compile(r"([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d+)?", re.IGNORECASE | re.ASCII)
_ONE_WORKERS_OWN = ("--nnodes", "--node-rank", "--dist-init-addr", "--nccl-init-addr", "--nccl-port")


@dataclass(frozen=True)
class FleetOptions(SharedOptions):
    """The options of a fleet.

    Attributes:
        workers: number of local workers.
        urls: URLs of workers that run elsewhere.
        routing: the router's policy, one of ``ROUTINGS``.
        host, port: the front's address.
        tls: uvicorn's options for the certificate, by name; empty without one.
        first_gpu: first GPU of the first local worker.
        gpus_per_worker: tensor-parallel ranks per worker.
        keys: the front's keys; the workers have the same API key.
        log_level: of the front's log.
        model_path: the local workers' model.
        worker_arguments: the local workers' other arguments, unchanged.
    """

    workers: int
    urls: tuple[str, ...]
    routing: str
    host: str
    port: int
    tls: dict[str, Any]
    first_gpu: int
    gpus_per_worker: int
    keys: Keys
    log_level: str
    model_path: str | None
    worker_arguments: tuple[str, ...]


def add_fleet_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options of a fleet; ``--dp 1`` is a fleet of one worker, which is restarted when it ends."""
    parser.add_argument(
        "--dp",
        type=count,
        metavar="N",
        help="number of workers behind one port, each a server of its own on the next --tp GPUs. A worker that dies or "
        "hangs is restarted, with growing delays. Without --dp, a single server runs and exits if a part of it dies. "
        "--dp-size is SGLang's own data parallelism inside one server",
    )
    parser.add_argument(
        "--worker-urls",
        type=_url,
        nargs="+",
        default=(),
        metavar="URL",
        help="also put workers that run elsewhere behind the port, or, without --dp and --model-path, only those; "
        "they must have the same --api-key",
    )
    parser.add_argument(
        "--routing",
        choices=ROUTINGS,
        default=ROUTINGS[0],
        help="which worker gets a chat request (default: %(default)s: each in turn, bodies byte for byte). "
        "cache_aware: the worker with most of the prompt in its cache; but the router rewrites bodies: unknown keys of "
        "messages are lost. Requests with an earlier answer's audio therefore bypass it, and so do requests without "
        "'model' or with a temperature above 2 or n above 10, which it would refuse",
    )


def is_fleet(arguments: Sequence[str]) -> bool:
    """Whether these arguments start a fleet."""
    parsed, _ = _fleet_parser().parse_known_args(list(arguments))
    return bool(parsed.worker_urls) or parsed.dp is not None


def read(arguments: Sequence[str]) -> FleetOptions:
    """Read the options of a fleet from the launcher's arguments.

    Raises:
        ValueError: if they contradict each other.
        SystemExit: from argparse.
    """
    parsed, rest = _parser().parse_known_args(list(arguments))
    shared, others = _shared_parser().parse_known_args(rest)
    workers = parsed.dp if parsed.dp is not None else 0 if parsed.worker_urls and parsed.model_path is None else 1
    if workers and parsed.model_path is None:
        raise ValueError("--model-path: required to start workers")
    if parsed.dp is not None:
        _refuse(rest)
    if others and not workers:
        names = [word.partition("=")[0] for word in others if word.startswith("-")] or others  # values may be secret
        raise ValueError(f"{', '.join(names)}: unknown, or an option of workers, of which this fleet starts none")
    complaints = key_complaints(shared) + address_complaints(parsed.host, parsed.port) + tls_complaints(parsed)
    if complaints:
        raise ValueError("; ".join(complaints))
    if bool(parsed.ssl_keyfile) != bool(parsed.ssl_certfile):
        raise ValueError("--ssl-keyfile, --ssl-certfile: must be given together")
    values = shared_values(shared)
    values["max_body_bytes"] = min(values["max_body_bytes"], ROUTER_MAX_BYTES)
    tls = {name: value for name in TLS if (value := getattr(parsed, name)) is not None}
    return FleetOptions(
        workers=workers,
        urls=tuple(dict.fromkeys(parsed.worker_urls)),
        routing=parsed.routing,
        host=parsed.host,
        port=parsed.port,
        tls=tls,
        first_gpu=parsed.base_gpu_id,
        gpus_per_worker=shared.tp,
        keys=Keys(shared.api_key, shared.admin_api_key),
        log_level=shared.log_level,
        model_path=parsed.model_path,
        worker_arguments=tuple(rest),
        **values,
    )


_LOG_LEVELS = ("debug", "info", "warning", "error", "critical")


def _fleet_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sglang_speechlm.launch", add_help=False, allow_abbrev=False)
    add_fleet_options(parser)
    return parser


def _parser() -> argparse.ArgumentParser:
    """Return the parser of options that the fleet does not pass on to its workers."""
    parser = _fleet_parser()
    parser.add_argument("--model-path", "--model", type=named)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=30000)
    parser.add_argument("--base-gpu-id", type=int, default=0)
    for name in TLS:
        parser.add_argument(f"--{name.replace('_', '-')}")
    return parser


def _shared_parser() -> argparse.ArgumentParser:
    """Return the parser of options that the workers get, too; a worker that refuses one ends the fleet."""
    parser = argparse.ArgumentParser(prog="python -m sglang_speechlm.launch", add_help=False, allow_abbrev=False)
    parser.add_argument("--tp", "--tp-size", "--tensor-parallel-size", type=count, default=1)
    parser.add_argument("--api-key")
    parser.add_argument("--admin-api-key")
    add_shared_options(parser)
    parser.add_argument("--log-level", type=str.lower, choices=_LOG_LEVELS, default="info")
    return parser


def _refuse(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in _ONE_WORKERS_OWN:
        parser.add_argument(name, dest=name)
    given, _ = parser.parse_known_args(list(arguments))
    if found := [name for name, value in vars(given).items() if value is not None]:
        raise ValueError(
            f"{', '.join(found)}: belongs to one worker and cannot be used with --dp; start each worker that spans "
            "several nodes on its own, then put them behind one port with --worker-urls"
        )


def _url(text: str) -> str:
    return checked_url(text, argparse.ArgumentTypeError)


def checked_url(text: str, error: type[Exception] = ValueError) -> str:
    """Return a worker's URL in its normal form: scheme, host and port, without a path.

    Raises:
        Exception: ``error``, if it is not such a URL.
    """
    try:
        parts = urlsplit(text)
        is_whole = parts.scheme in ("http", "https") and (80 if parts.port is None else parts.port) > 0
    except ValueError:
        is_whole = False
    if not is_whole or not _AUTHORITY.fullmatch(parts.netloc) or parts.path.strip("/") or parts.query or parts.fragment:
        raise error(f"must be http(s)://HOST:PORT; got {text!r}")
    return f"{parts.scheme}://{parts.netloc}"
