"""From the command line to our options and SGLang's."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.options.fleet import add_fleet_options
from sglang_speechlm.options.server import OwnOptions, add_own_options
from sglang_speechlm.options.sglang_args import (
    checkpoint_config,
    defaults_from,
    refuse_missing_gpus,
    refuse_unsupported,
)
from sglang_speechlm.options.vllm_names import (
    OVERRIDDEN_BY,
    PROGRAM,
    USAGE,
    Choice,
    GuideOption,
    Machine,
    add_guide_options,
    choose,
    fit,
)
from sglang_speechlm.process.exit_status import ExitStatus
from sglang_speechlm.tokenizer import TextTokenizer, offset_tokenizer

MAX_QUEUED = 1024
"""Stages of requests that wait at most, unless --max-queued-requests says otherwise; more are refused with a 503."""

_USED_MOST = (
    ("--host ADDRESS", "where it listens (default: 127.0.0.1; 0.0.0.0 is everywhere)"),
    ("--port N", "(default: 30000; the guide's scripts: 9000 and 9001)"),
    ("--served-model-name NAME", "what answers name as their model"),
    ("--api-key KEY", "without it nothing but /health answers"),
    ("--enable-metrics", "Prometheus metrics at /metrics"),
    ("--max-total-tokens N", "positions of the KV cache"),
    ("--max-queued-requests N", f"more are refused with a 503 (default: {MAX_QUEUED})"),
    ("--log-level LEVEL", "(default: info)"),
)


@dataclass(frozen=True)
class CommandLine:
    """What was asked for, read as far as it can be without SGLang.

    Attributes:
        model_path: the served directory.
        config: its config.
        own: our options.
        choices: options with a name of the guide's.
        others: arguments that SGLang is to read.
    """

    model_path: str
    config: SpeechLMConfig
    own: OwnOptions
    choices: dict[GuideOption, Choice]
    others: list[str]


def build_parser() -> argparse.ArgumentParser:
    """Of everything that is not SGLang's."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage=USAGE,
        description="Serve a SpeechLM checkpoint over HTTP.",
        epilog=_epilog(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model-path", "--model", required=True, metavar="DIR", help="a served SpeechLM directory; required"
    )
    parser.add_argument("--help-sglang", action=_SGLangHelp, nargs=0, help="show SGLang's options and exit")
    add_guide_options(parser.add_argument_group("the usage guide's options (vLLM's names; SGLang's are taken too)"))
    add_own_options(parser.add_argument_group("SpeechLM's own options"))
    add_fleet_options(parser.add_argument_group("several workers behind one port"))
    return parser


def read(arguments: Sequence[str]) -> CommandLine:
    """Read a command line.

    Raises:
        ValueError: if it contradicts itself, or names no checkpoint.
        SystemExit: as argparse does, for --help too.
    """
    choices, rest = choose(arguments)
    parsed, others = build_parser().parse_known_args(rest)
    return CommandLine(parsed.model_path, checkpoint_config(parsed.model_path), OwnOptions.of(parsed), choices, others)


def settle(asked: CommandLine, machine: Machine) -> tuple[Any, list[str]]:
    """SGLang's ServerArgs, and sentences that say what became of the guide's options. SGLang's plugins must be loaded.

    Raises:
        ValueError: naming what cannot be.
        SystemExit: as argparse does.
    """
    from sglang.srt.server_args import ServerArgs, prepare_server_args

    from sglang_speechlm.sglang_hooks.radix import RADIX_BACKEND

    translated, said = fit(asked.choices, machine, asked.config.text_config.max_position_embeddings)
    # An idle scheduler would spin a core.
    settled = ["--model-path", asked.model_path, "--radix-cache-backend", RADIX_BACKEND, "--sleep-on-idle"]
    settled += ["--max-queued-requests", str(MAX_QUEUED), "--page-size", "1"]
    settled += ["--tokenizer-path", str(served_tokenizer(Path(asked.model_path), asked.config))]
    for name, value in defaults_from(asked.model_path, asked.config, on_cpu=not machine.gpus).items():
        settled += [f"--{name.replace('_', '-')}", str(value)]
    sglangs = [*settled, *translated, *asked.others]
    # SGLang's own parser would print the names of hundreds of options above what is wrong.
    # Nor is an option to be abbreviated: whatever reads the command line before this one would miss it.
    parser = argparse.ArgumentParser(prog=PROGRAM, usage=USAGE, allow_abbrev=False)
    ServerArgs.add_cli_args(parser)
    parser.parse_args(sglangs)
    server_args = prepare_server_args(sglangs)
    refuse_unsupported(server_args)
    refuse_missing_gpus(server_args, machine.gpus)
    return server_args, said


def served_tokenizer(model_path: Path, config: SpeechLMConfig) -> Path:
    """The directory of the tokenizer to serve: the checkpoint's, or one with the same texts and the config's ids.

    Raises:
        ValueError: if there is none, or it is of another kind.
    """
    try:
        if TextTokenizer.fits(model_path, config):
            return model_path
        files = offset_tokenizer(model_path, config)
    except FileNotFoundError as error:
        raise ValueError(f"--model-path {model_path}: {error}") from error
    folder = Path(tempfile.mkdtemp(prefix="tokenizer-"))
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


class _SGLangHelp(argparse.Action):
    """Prints SGLang's own help."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from sglang.srt.server_args import ServerArgs

        sglangs = argparse.ArgumentParser(prog=parser.prog, add_help=False)
        ServerArgs.add_cli_args(sglangs)
        sglangs.print_help()
        parser.exit()


def _epilog() -> str:
    lines = ["SGLang's options are all taken as well, but for those that SpeechLM cannot be served with, which are"]
    lines += ["refused by name. Used most:"]
    lines += [f"  {name:<26} {said}" for name, said in _USED_MOST]
    lines += ["", f"Scripts put defaults before {OVERRIDDEN_BY}; what comes after it wins, under either name."]
    lines += ["", "SIGTERM and SIGINT: /health and new requests get a 503, running answers are finished, and it ends"]
    lines += ["within --drain-timeout and 20 s; a second signal ends it at once. Exit statuses:"]
    lines += [f"  {status.value}  {status.meaning}" for status in ExitStatus]
    return "\n".join(lines)
