"""From the command line to a serving process."""

from __future__ import annotations

import argparse
import os
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sglang_speechlm import logs
from sglang_speechlm.server.options import defaults_from, refuse_unsupported

if TYPE_CHECKING:
    from sglang_speechlm.server.own_options import OwnOptions

MAX_QUEUED = 1024
"""Stages of requests that wait at most, unless --max-queued-requests says otherwise; more are refused with a 503."""


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop; the exit status."""
    import torch
    from sglang.srt.plugins import load_plugins

    if not torch.cuda.is_available():
        # SGLang compiles its repetition penalty when it is first asked for: 40 s in which nobody is served, and the
        # end of the scheduler where there is no C++ compiler.
        os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")
    load_plugins()
    try:
        own, server_args = _parse(arguments)
        refuse_unsupported(server_args)
        _refuse_taken_port(server_args.host, server_args.port)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    from sglang.srt.entrypoints import http_server
    from sglang.srt.utils import kill_process_tree

    from sglang_speechlm.server.app import install
    from sglang_speechlm.server.warmup import warm_up

    keys = [key for key in (server_args.api_key, server_args.admin_api_key) if key]
    secrets = [*keys, server_args.ssl_keyfile_password] if server_args.ssl_keyfile_password else keys
    logs.configure(own.log_format, server_args.log_level, secrets)
    unlogged = server_args.uvicorn_access_log_exclude_prefixes
    install(http_server.app, lambda: http_server._global_state, own, keys if server_args.api_key else (), unlogged)
    try:
        http_server.launch_server(server_args, execute_warmup_func=warm_up)
    finally:
        # Where the HTTP side could not start, nobody has told the scheduler, and Python would wait for it for ever.
        kill_process_tree(os.getpid(), include_parent=False)
    return 0


def _refuse_taken_port(host: str, port: int) -> None:
    """SGLang would find out when the model is loaded, and the warm-up would ask whoever listens there.

    Raises:
        ValueError: if nobody can listen at this address.
    """
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise ValueError(f"--host {host} --port {port}: {error.strerror or error}") from error


def _parse(arguments: Sequence[str]) -> tuple[OwnOptions, Any]:
    """Our own options, and SGLang's ServerArgs of all the others.

    Raises:
        ValueError: if the model path holds no SpeechLM checkpoint.
    """
    import torch
    from sglang.srt.server_args import prepare_server_args

    from sglang_speechlm.server.own_options import OwnOptions, add_own_options
    from sglang_speechlm.sglang_hooks.radix import RADIX_BACKEND

    parser = argparse.ArgumentParser(
        prog="python -m sglang_speechlm.launch",
        description="Serve a SpeechLM checkpoint. Every option of SGLang's server is taken as well.",
        allow_abbrev=False,
    )
    parser.add_argument("--model-path", "--model", required=True, help="a served SpeechLM directory")
    add_own_options(parser, codec_device="cuda" if torch.cuda.is_available() else "cpu")
    parsed, others = parser.parse_known_args(list(arguments))
    # An idle scheduler would spin a core.
    settled = ["--model-path", parsed.model_path, "--radix-cache-backend", RADIX_BACKEND, "--sleep-on-idle"]
    settled += ["--max-queued-requests", str(MAX_QUEUED), "--page-size", "1"]
    for name, value in defaults_from(parsed.model_path, on_cpu=not torch.cuda.is_available()).items():
        settled += [f"--{name.replace('_', '-')}", str(value)]
    return OwnOptions.of(parsed), prepare_server_args([*settled, *others])
