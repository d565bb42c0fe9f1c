"""From the command line to a serving process."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from sglang_speechlm.server.options import defaults_from, refuse_unsupported


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
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    from sglang.srt.entrypoints import http_server

    from sglang_speechlm.server.app import install
    from sglang_speechlm.server.warmup import warm_up

    install(http_server.app, lambda: http_server._global_state, own.codec_device, own.codec_threads)
    http_server.launch_server(server_args, execute_warmup_func=warm_up)
    return 0


def _parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, Any]:
    """Our own options, and SGLang's ServerArgs of all the others.

    Raises:
        ValueError: if the model path holds no SpeechLM checkpoint.
    """
    import torch
    from sglang.srt.server_args import prepare_server_args

    from sglang_speechlm.sglang_hooks.radix import RADIX_BACKEND

    parser = argparse.ArgumentParser(
        prog="python -m sglang_speechlm.launch",
        description="Serve a SpeechLM checkpoint. Every option of SGLang's server is taken as well.",
        allow_abbrev=False,
    )
    parser.add_argument("--model-path", "--model", required=True, help="a served SpeechLM directory")
    parser.add_argument(
        "--codec-device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="where the audio decoder runs (default: %(default)s)",
    )
    parser.add_argument(
        "--codec-threads", type=int, default=1, help="CPU threads of the audio decoder (default: %(default)s)"
    )
    own, others = parser.parse_known_args(list(arguments))
    # An idle scheduler would spin a core.
    settled = ["--model-path", own.model_path, "--radix-cache-backend", RADIX_BACKEND, "--sleep-on-idle"]
    for name, value in defaults_from(own.model_path, on_cpu=not torch.cuda.is_available()).items():
        settled += [f"--{name.replace('_', '-')}", str(value)]
    return own, prepare_server_args([*settled, *others])
