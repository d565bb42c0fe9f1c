"""Start a serving process from the command line."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch

from sglang_speechlm import logs
from sglang_speechlm.codec import spawn
from sglang_speechlm.model import announce
from sglang_speechlm.options.command_line import CommandLine, read, settle
from sglang_speechlm.options.shared import address_complaints
from sglang_speechlm.options.vllm_names import Machine
from sglang_speechlm.platform.cuda import check_machine
from sglang_speechlm.platform.threads import without_threads
from sglang_speechlm.platform.torch_compiler import compile_nothing
from sglang_speechlm.platform.transformers_imports import train_nothing
from sglang_speechlm.process.exit_status import ExitStatus
from sglang_speechlm.process.gc import collect_garbage
from sglang_speechlm.process.heartbeat import Heartbeat
from sglang_speechlm.process.keeper import keep
from sglang_speechlm.process.port import ReservedPort
from sglang_speechlm.sglang_hooks.options import load_plugins
from sglang_speechlm.sglang_hooks.sockets import stay_on_this_machine

logger = logging.getLogger(__name__)

_STOP_SECONDS = 20.0
"""Maximum time from the end of draining to the end of the process."""


def main(arguments: Sequence[str]) -> int:
    """Serve until stopped; return the exit status, one of ``ExitStatus``."""
    train_nothing()
    if not torch.backends.cuda.is_built():  # asking for a GPU here would keep the process that this one forks from it
        compile_nothing()
    try:
        with without_threads():  # it converts checkpoints, too
            command_line = read(arguments)
    except (ValueError, OSError) as error:
        return _refused(error)
    return keep(partial(_serve, command_line), command_line.own.drain_seconds + _STOP_SECONDS)


def _refused(error: Exception, status: ExitStatus = ExitStatus.BAD_OPTIONS) -> int:
    print(f"error: {error}", file=sys.stderr)
    return status


def _serve(command_line: CommandLine, heartbeat: Heartbeat) -> int:
    try:
        check_machine(command_line.device)
    except ValueError as error:
        return _refused(error, ExitStatus.NOT_STARTED)
    announce(override=True)
    codec = None
    if torch.cuda.is_available():
        codec = spawn()  # it imports its modules while this process imports SGLang
    else:
        compile_nothing()
        from sglang_speechlm.sglang_hooks.registry import fork_parts

        fork_parts()
    from sglang_speechlm.sglang_hooks.registry import import_own_model_alone

    import_own_model_alone()
    load_plugins()
    try:
        machine = Machine.here()
        server_args, notes = settle(command_line, machine)
        reserved = _reserve(server_args.host, server_args.port)
    except (ValueError, AssertionError) as error:  # SGLang checks some of its options with assertions
        return _refused(error)

    from sglang_speechlm.server.app import install
    from sglang_speechlm.server.edge.protocol import PROTOCOL
    from sglang_speechlm.server.lifetime.gate import Gate
    from sglang_speechlm.server.lifetime.life import Life
    from sglang_speechlm.server.lifetime.parts import local_ranks, run_detokenizer, run_scheduler
    from sglang_speechlm.server.lifetime.warmup import warm_up
    from sglang_speechlm.server.lifetime.watch import Watch
    from sglang_speechlm.sglang_hooks import http

    if server_args.nnodes == 1:
        stay_on_this_machine()
    collect_garbage()
    codec = codec or spawn("fork")  # it inherits this process's imports
    own = command_line.own
    own = replace(own, codec_device=codec_device(own.codec_device, machine.gpus, server_args.base_gpu_id))
    life = Life(own.drain_seconds, heartbeat, reserved)
    secrets = (server_args.api_key, server_args.admin_api_key, server_args.ssl_keyfile_password)
    logs.configure(own.log_format, server_args.log_level, [secret for secret in secrets if secret])
    life.install(http.app)
    install(server_args, own, partial(Gate, life=life), codec)
    ranks = {rank: Heartbeat() for rank in local_ranks(server_args)}
    detokenizer = Heartbeat()
    heartbeats = {f"scheduler {dp}.{tp}": heartbeat for (dp, tp), heartbeat in ranks.items()}
    if server_args.node_rank == 0:
        heartbeats["detokenizer"] = detokenizer
    http.app.state.watch = watch = Watch(heartbeats, lambda: life.has_served, life.part_hangs)
    for sentence in notes:
        logger.info("%s", sentence)
    watch.start()
    try:
        http.launch(
            server_args,
            PROTOCOL,
            init_tokenizer_manager_func=life.make_tokenizer_manager,
            run_scheduler_process_func=partial(run_scheduler, ranks),
            run_detokenizer_process_func=partial(run_detokenizer, detokenizer),
            execute_warmup_func=partial(warm_up, life=life),
            launch_callback=life.up,
        )
    except (Exception, SystemExit):
        logger.exception("The server failed")
        return life.status or (ExitStatus.FAILED if life.has_served else ExitStatus.NOT_STARTED)
    return life.status


def codec_device(named: str, gpus: int, first_gpu: int) -> str:
    """Return the codec's torch device: by default, this server's own first GPU."""
    if named != "auto":
        return named
    return f"cuda:{first_gpu}" if gpus else "cpu"


def _reserve(host: str, port: int) -> ReservedPort:
    """Reserve the port until the model is loaded; otherwise another server could take it and get the warm-up.

    Raises:
        ValueError: if the address cannot be bound.
    """
    if complaints := address_complaints(host, port):
        raise ValueError("; ".join(complaints))
    try:
        return ReservedPort(host, port)
    except OSError as error:
        raise ValueError(f"--host {host} --port {port}: {error.strerror or error}") from error
