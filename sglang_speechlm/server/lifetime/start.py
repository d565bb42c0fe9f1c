"""From the command line to a serving process."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from sglang_speechlm import logs
from sglang_speechlm.codec import spawn
from sglang_speechlm.options.command_line import CommandLine, read, settle
from sglang_speechlm.options.vllm_names import Machine
from sglang_speechlm.process.exit_status import ExitStatus
from sglang_speechlm.process.gc import collect_garbage
from sglang_speechlm.process.keeper import keep

logger = logging.getLogger(__name__)

_STOP_SECONDS = 20.0
"""From the end of draining to the end of the process, at most."""


def main(arguments: Sequence[str]) -> int:
    """Serve until told to stop; the exit status, one of ``ExitStatus``."""
    try:
        asked = read(arguments)
    except ValueError as error:
        return _refused(error)
    return keep(partial(_serve, asked), asked.own.drain_seconds + _STOP_SECONDS)


def _refused(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return ExitStatus.BAD_OPTIONS


def _serve(asked: CommandLine) -> int:
    import torch

    codec = spawn()  # while this process imports SGLang
    if not torch.cuda.is_available():
        # SGLang compiles its repetition penalty when it is first asked for: 40 s in which nobody is served, and the
        # end of the scheduler where there is no C++ compiler.
        os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
        from sglang_speechlm.sglang_hooks.registry import fork_parts

        fork_parts()
    from sglang.srt.plugins import load_plugins

    load_plugins()
    try:
        machine = Machine.here()
        server_args, said = settle(asked, machine)
        _refuse_taken_port(server_args.host, server_args.port)
    except (ValueError, AssertionError) as error:  # SGLang checks some of its options by assertions
        return _refused(error)

    from sglang_speechlm.server.app import install
    from sglang_speechlm.server.edge.protocol import PROTOCOL
    from sglang_speechlm.server.lifetime.life import Life
    from sglang_speechlm.server.lifetime.parts import run_detokenizer, run_scheduler
    from sglang_speechlm.server.lifetime.warmup import warm_up
    from sglang_speechlm.sglang_hooks import http

    collect_garbage()
    own = asked.own
    if own.codec_device == "auto":
        own = replace(own, codec_device="cuda" if machine.gpus else "cpu")
    life = Life(own.drain_seconds)
    secrets = (server_args.api_key, server_args.admin_api_key, server_args.ssl_keyfile_password)
    logs.configure(own.log_format, server_args.log_level, [secret for secret in secrets if secret])
    install(server_args, own, life, codec)
    for sentence in said:
        logger.info("%s", sentence)
    try:
        http.launch(
            server_args,
            PROTOCOL,
            init_tokenizer_manager_func=life.make_tokenizer_manager,
            run_scheduler_process_func=run_scheduler,
            run_detokenizer_process_func=run_detokenizer,
            execute_warmup_func=partial(warm_up, life=life),
            launch_callback=life.up,
        )
    except (Exception, SystemExit):
        logger.exception("The server failed")
        return life.status or (ExitStatus.FAILED if life.has_served else ExitStatus.NOT_STARTED)
    return life.status


def _refuse_taken_port(host: str, port: int) -> None:
    """SGLang would find out when the model is loaded, and the warm-up would ask whoever listens there.

    Raises:
        ValueError: if nobody can listen at this address.
    """
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise ValueError(f"--host {host} --port {port}: {error.strerror or error}") from error
