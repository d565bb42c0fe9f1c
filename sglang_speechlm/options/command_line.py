"""From the command line to our options and SGLang's."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from sglang_speechlm.checkpoint.check import check
from sglang_speechlm.checkpoint.prepare import Wanted, served_directory
from sglang_speechlm.checkpoint.served import check_served, checkpoint_config
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.config.files import CheckpointError
from sglang_speechlm.options.fleet import add_fleet_options
from sglang_speechlm.options.gpu_memory import MemoryPlan, graph_rows, plan_memory, static_share
from sglang_speechlm.options.server import OwnOptions, add_own_options
from sglang_speechlm.options.sglang_args import (
    defaults_from,
    refuse_missing_gpus,
    refuse_unsupported,
)
from sglang_speechlm.options.vllm_names import (
    MEMORY,
    OVERRIDDEN_BY,
    PROGRAM,
    RANKS,
    SEQUENCES,
    USAGE,
    Choice,
    GuideOption,
    Machine,
    add_guide_options,
    choose,
    fit,
)
from sglang_speechlm.process.exit_status import ExitStatus
from sglang_speechlm.sglang_hooks import RADIX_BACKEND
from sglang_speechlm.sglang_hooks.options import add_options
from sglang_speechlm.sglang_hooks.options import server_args as server_args_of
from sglang_speechlm.tokenizer import TextTokenizer, offset_tokenizer

MAX_QUEUED = 1024
"""Stages of requests that wait at most, unless --max-queued-requests says otherwise; more are refused with a 503."""

_WHAT_TO_DO = (
    "Name a checkpoint: --model-path DIR, or MODEL=DIR for the scripts; python -m sglang_speechlm.convert --help tells "
    "what can be converted, and python -m sglang_speechlm.checkpoint --help builds a small random one"
)

_USED_MOST = (
    ("--host ADDRESS", "where it listens (default: 127.0.0.1; 0.0.0.0 is everywhere)"),
    ("--port N", "(default: 30000; the guide's scripts: 9000 and 9001)"),
    ("--api-key KEY", "requests must bring it, but for /health (default: no key)"),
    ("--enable-metrics", "Prometheus metrics at /metrics"),
    ("--max-total-tokens N", "positions of the KV cache"),
    ("--max-queued-requests N", f"more are refused with a 503 (default: {MAX_QUEUED})"),
    ("--log-level LEVEL", "(default: info)"),
)


@dataclass(frozen=True)
class CommandLine:
    """What was asked for, read as far as it can be without SGLang.

    Attributes:
        model: what --model-path names, by which it is served.
        model_path: the served directory.
        tokenizer_path: the directory whose tokenizer is served, with raw ids or the checkpoint's.
        config: its config.
        own: our options.
        choices: options with a name of the guide's.
        others: arguments that SGLang is to read.
    """

    model: str
    model_path: Path
    tokenizer_path: Path
    config: SpeechLMConfig
    own: OwnOptions
    choices: dict[GuideOption, Choice]
    others: list[str]

    @property
    def name(self) -> str:
        """What the model is called where the operator does not say: as its directory or file, or by its hub tag."""
        path = Path(self.model)
        return path.resolve().name if path.exists() else self.model


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
        "--model-path",
        "--model",
        required=True,
        metavar="PATH|TAG",
        help="a served directory, or what is converted to one when it is first served: a release's directory, its .pt, "
        "DeepSpeed's model states, a trainer's output or one of its steps, or a hub tag; required",
    )
    _add_conversion_options(parser.add_argument_group("a checkpoint that must be converted or fetched"))
    parser.add_argument("--help-sglang", action=_SGLangHelp, nargs=0, help="show SGLang's options and exit")
    add_guide_options(parser.add_argument_group("the usage guide's options (vLLM's names; SGLang's are taken too)"))
    add_own_options(parser.add_argument_group("SpeechLM's own options"))
    add_fleet_options(parser.add_argument_group("several workers behind one port"))
    return parser


def _add_conversion_options(parser: argparse._ArgumentGroup) -> None:
    add = parser.add_argument
    said = "Qwen3's tokenizer: a directory or a hub tag (default: the training config's tokenizer_name)"
    add("--tokenizer-path", "--tokenizer", metavar="DIR|TAG", help=said)
    said = "training config, YAML (default: the one near the weights)"
    add("--train-config", type=Path, metavar="FILE", help=said)
    add("--revision", metavar="NAME", help="branch, tag or commit of the hub tag")
    said = "where conversions are kept (default: sglang-speechlm in XDG_CACHE_HOME or ~/.cache)"
    add("--convert-dir", type=Path, metavar="DIR", help=said)
    said = "say what the checkpoint is, what it becomes, what it needs and every problem; nothing is written or served"
    add("--check", action="store_true", help=said)


def read(arguments: Sequence[str]) -> CommandLine:
    """Read a command line.

    Raises:
        ValueError: if it contradicts itself, or names no checkpoint that can be served.
        SystemExit: as argparse does, for --help too, and after --check.
    """
    choices, rest = choose(arguments)
    parser = build_parser()
    parsed, others = parser.parse_known_args(rest)
    wanted = Wanted(parsed.model_path, parsed.revision, parsed.tokenizer_path, parsed.train_config, parsed.convert_dir)
    if parsed.check:
        parser.exit(check(wanted, print))
    try:
        directory = served_directory(wanted, _say)
        config = checkpoint_config(directory)
        check_served(directory, config)
    except (CheckpointError, OSError) as error:
        hint = "" if Path(parsed.model_path).exists() else f". {_WHAT_TO_DO}"
        raise ValueError(f"--model-path {parsed.model_path}: {error}{hint}") from error
    tokenizer = Path(parsed.tokenizer_path or "")
    served = tokenizer if parsed.tokenizer_path and tokenizer.is_dir() else directory
    model, parsed.model_path = parsed.model_path, str(directory)
    return CommandLine(
        model, directory, served, config, replace(OwnOptions.of(parsed), other_names=(model,)), choices, others
    )


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def settle(asked: CommandLine, machine: Machine) -> tuple[Any, list[str]]:
    """SGLang's ServerArgs, and sentences that say what became of the guide's options. SGLang's plugins must be loaded.

    Raises:
        ValueError: naming what cannot be.
        SystemExit: as argparse does.
    """
    translated, said = fit(asked.choices, machine, asked.config.text_config.max_position_embeddings)
    said.append(f"decoding, where a request does not say: {asked.config.decoding}")
    # An idle scheduler would spin a core.
    settled = ["--model-path", str(asked.model_path), "--radix-cache-backend", RADIX_BACKEND, "--sleep-on-idle"]
    settled += ["--served-model-name", next(iter(asked.own.served_names), asked.name)]
    settled += ["--max-queued-requests", str(MAX_QUEUED), "--page-size", "1"]
    settled += ["--tokenizer-path", str(served_tokenizer(asked.tokenizer_path, asked.config))]
    settled_by_machine = defaults_from(asked.model_path, asked.config, on_cpu=not machine.gpus)
    if machine.gpus:
        settled_by_machine |= gpu_defaults(asked, machine)
    for name, value in settled_by_machine.items():
        settled += [f"--{name.replace('_', '-')}", str(value)]
    sglangs = [*settled, *translated, *asked.others]
    # SGLang's own parser would print the names of hundreds of options above what is wrong.
    # Nor is an option to be abbreviated: whatever reads the command line before this one would miss it.
    parser = argparse.ArgumentParser(prog=PROGRAM, usage=USAGE, allow_abbrev=False)
    add_options(parser)
    parser.parse_args(sglangs)
    server_args = server_args_of(sglangs)
    refuse_unsupported(server_args)
    refuse_missing_gpus(server_args, machine.gpus)
    if machine.gpu_bytes and server_args.device == "cuda":
        if (share := asked.choices.get(MEMORY)) is None or share.by_guide:
            ceiling = 1.0 if share is None else share.value
            fraction = static_share(_plan(asked, server_args, machine), server_args.mem_fraction_static, ceiling)
            # Options cannot be changed once they are resolved.
            server_args = server_args_of([*sglangs, MEMORY.sglang[0], str(fraction)])
            if share is not None:
                why = "SGLang's bounds weights and KV cache alone, and the rest must fit beside them"
                said.append(f"{share.written} becomes {MEMORY.sglang[0]} {fraction}: {why}")
        said.append(str(plan := _plan(asked, server_args, machine)))
        if plan.positions <= 0 and server_args.quantization is None:
            raise ValueError(
                f"--model-path {asked.model}: no room for a KV cache on this GPU. {plan}. "
                f"Share the model by {RANKS.guide} ({server_args.tp_size} now), or take a larger card"
            )
    return server_args, said


def gpu_defaults(asked: CommandLine, machine: Machine) -> dict[str, Any]:
    """Options of SGLang's that a GPU settles where the command line does not."""
    # SGLang would open a CUDA context and a GiB of buffers for them in the HTTP process.
    settled: dict[str, Any] = {"mm_feature_transport": "cpu"}
    if machine.capability[0] == 10:
        settled["attention_backend"] = "flashinfer"  # SGLang's own choice there knows no page of one position
    if machine.gpu_bytes and not any(argument.startswith("--cuda-graph") for argument in asked.others):
        ranks, rows = (
            asked.choices[option].value if option in asked.choices else None for option in (RANKS, SEQUENCES)
        )
        settled["cuda_graph_max_bs_decode"] = graph_rows(asked.config, ranks or 1, machine.gpu_bytes, rows)
    return settled


def _plan(asked: CommandLine, server_args: Any, machine: Machine) -> MemoryPlan:
    codec = asked.own.codec_device != "cpu"
    return plan_memory(asked.config, server_args, machine.gpu_bytes, codec=codec)


def served_tokenizer(model_path: Path, config: SpeechLMConfig) -> Path:
    """The directory of the tokenizer to serve: the checkpoint's, or one with the same texts and the config's ids.

    Raises:
        ValueError: if there is none, or it is of another kind.
    """
    try:
        if TextTokenizer.fits(model_path, config):
            return model_path
        files = offset_tokenizer(model_path, config)
    except (FileNotFoundError, CheckpointError) as error:
        raise ValueError(f"--model-path, --tokenizer-path {model_path}: {error}") from error
    folder = Path(tempfile.mkdtemp(prefix="tokenizer-"))
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


class _SGLangHelp(argparse.Action):
    """Prints SGLang's own help."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        sglangs = argparse.ArgumentParser(prog=parser.prog, add_help=False)
        add_options(sglangs)
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
