"""Parse the command line into SpeechLM's own options and SGLang's."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from sglang_speechlm.checkpoint.check import check
from sglang_speechlm.checkpoint.prepare import Wanted, served_directory, served_tokenizer_directory
from sglang_speechlm.checkpoint.served import check_served, checkpoint_config, tokenizer_files
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.config.files import CheckpointError
from sglang_speechlm.options.fleet import add_fleet_options
from sglang_speechlm.options.gpu_memory import MOST_ROWS, MemoryPlan, graph_rows, plan_memory, static_share
from sglang_speechlm.options.server import OwnOptions, add_own_options
from sglang_speechlm.options.sglang_args import (
    defaults_from,
    refuse_missing_gpus,
    refuse_quantization,
    refuse_unsupported,
    refuse_untested,
)
from sglang_speechlm.options.shared import named, named_path
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
from sglang_speechlm.sglang_hooks import GRAMMAR_BACKEND, RADIX_BACKEND
from sglang_speechlm.sglang_hooks.options import add_options, resolved
from sglang_speechlm.sglang_hooks.options import server_args as server_args_of

MAX_QUEUED = 1024
"""Default of --max-queued-requests: maximum waiting stages of requests; more are refused with a 503."""

DECODES_BETWEEN_PREFILLS = 4
"""Default of --prefill-decode-interval: with many listeners, a request begins in most steps, and nearly every second
step would be a prefill, for which all of them wait. So prefills are at most a fifth of the steps."""
MANY_ROWS = 64
"""Default of --prefill-decode-interval-min-bs: with fewer running rows, each answer 10 s long, prefills are fewer."""

_SMALL_CARD_BYTES = 35 << 30

_WHAT_TO_DO = (
    "Name a checkpoint: --model-path DIR, or MODEL=DIR for the scripts; python -m sglang_speechlm.convert --help says "
    "what can be converted, and python -m sglang_speechlm.checkpoint --help builds a small random one"
)

_USED_MOST = (
    ("--host ADDRESS", "address to listen on (default: 127.0.0.1; 0.0.0.0: all interfaces)"),
    ("--port N", "(default: 30000; the guide's scripts: 9000 and 9001)"),
    ("--api-key KEY", "required from clients, except for /health (default: no key)"),
    ("--enable-metrics", "Prometheus metrics at /metrics"),
    ("--config FILE", "YAML file of options, under the names listed here; those on the command line win"),
    ("--max-total-tokens N", "positions of the KV cache"),
    ("--max-queued-requests N", f"more are refused with a 503 (default: {MAX_QUEUED})"),
    ("--log-level LEVEL", "(default: info)"),
)


@dataclass(frozen=True)
class CommandLine:
    """The parsed command line, as far as that is possible without SGLang.

    Attributes:
        model: the value of --model-path.
        model_path: the served directory.
        tokenizer_path: the directory of the tokenizer, with raw ids or the checkpoint's.
        config: the checkpoint's config.
        own: SpeechLM's own options.
        choices: options that have a name in the usage guide.
        others: arguments for SGLang.
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
        """The default name of the model: that of its directory or file, or its hub tag."""
        path = Path(self.model)
        return path.resolve().name if path.exists() else self.model

    @property
    def device(self) -> str | None:
        """The value of SGLang's --device, if it is given."""
        return self._given("--device")

    @property
    def quantization(self) -> str | None:
        """The value of SGLang's --quantization, if it is given."""
        return self._given("--quantization")

    def _given(self, option: str) -> str | None:
        parser = argparse.ArgumentParser(prog=PROGRAM, usage=USAGE, add_help=False, allow_abbrev=False)
        parser.add_argument(option, dest="value")
        value: str | None = parser.parse_known_args(self.others)[0].value
        return value


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all options that are not SGLang's."""
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
        type=named,
        required=True,
        metavar="PATH|TAG",
        help="a served directory, or a source that is converted to one on first use: a release directory, its .pt, "
        "DeepSpeed's model states, a trainer's output or one of its steps, or a hub tag (required)",
    )
    _add_conversion_options(parser.add_argument_group("a checkpoint that must be converted or fetched"))
    parser.add_argument("--help-sglang", action=_SGLangHelp, nargs=0, help="show SGLang's options and exit")
    add_guide_options(parser.add_argument_group("the usage guide's options (vLLM's names; SGLang's are accepted, too)"))
    add_own_options(parser.add_argument_group("SpeechLM's own options"))
    add_fleet_options(parser.add_argument_group("several workers behind one port"))
    return parser


def _add_conversion_options(parser: argparse._ArgumentGroup) -> None:
    add = parser.add_argument
    text = "Qwen3's tokenizer: a directory or a hub tag (default: the training config's tokenizer_name)"
    add("--tokenizer-path", "--tokenizer", type=named, metavar="DIR|TAG", help=text)
    text = "training config, YAML (default: the one near the weights)"
    add("--train-config", type=named_path, metavar="FILE", help=text)
    add("--revision", type=named, metavar="NAME", help="branch, tag or commit of the hub tag")
    text = "where conversions are kept (default: sglang-speechlm in XDG_CACHE_HOME or ~/.cache)"
    add("--convert-dir", type=named_path, metavar="DIR", help=text)
    text = "report what the checkpoint is, what it would become and need, and every problem; write and serve nothing"
    add("--check", action="store_true", help=text)


def read(arguments: Sequence[str]) -> CommandLine:
    """Read a command line.

    Raises:
        ValueError: if it contradicts itself, or names no checkpoint that can be served.
        SystemExit: from argparse, including for --help, and after --check.
    """
    choices, rest = choose(arguments)
    parser = build_parser()
    parsed, others = parser.parse_known_args(rest)
    wanted = Wanted(parsed.model_path, parsed.revision, parsed.tokenizer_path, parsed.train_config, parsed.convert_dir)
    if parsed.check:
        parser.exit(check(wanted, print))
    try:
        directory = served_directory(wanted, _log)
        config = checkpoint_config(directory)
        check_served(directory, config)
        tokenizer = served_tokenizer_directory(wanted, directory, _log)
    except (CheckpointError, OSError) as error:
        hint = "" if Path(parsed.model_path).exists() else f". {_WHAT_TO_DO}"
        raise ValueError(f"--model-path {parsed.model_path}: {error}{hint}") from error
    model, parsed.model_path = parsed.model_path, str(directory)
    return CommandLine(
        model, directory, tokenizer, config, replace(OwnOptions.of(parsed), other_names=(model,)), choices, others
    )


def _log(sentence: str) -> None:
    print(sentence, file=sys.stderr, flush=True)


def settle(command_line: CommandLine, machine: Machine) -> tuple[Any, list[str]]:
    """Return SGLang's ServerArgs, and notes on how the guide's options were translated. Load SGLang's plugins first.

    Raises:
        ValueError: if an option cannot be honoured; the message names it.
        SystemExit: from argparse.
    """
    translated, notes = fit(command_line.choices, machine, command_line.config.text_config.max_position_embeddings)
    notes.append(f"decoding defaults: {command_line.config.decoding}")
    # An idle scheduler would spin a core.
    settled = ["--model-path", str(command_line.model_path), "--radix-cache-backend", RADIX_BACKEND, "--sleep-on-idle"]
    settled += ["--served-model-name", next(iter(command_line.own.served_names), command_line.name)]
    settled += ["--max-queued-requests", str(MAX_QUEUED), "--page-size", "1"]
    settled += ["--grammar-backend", GRAMMAR_BACKEND]
    settled += ["--prefill-decode-interval", str(DECODES_BETWEEN_PREFILLS)]
    settled += ["--prefill-decode-interval-min-bs", str(MANY_ROWS)]
    settled += ["--tokenizer-path", str(served_tokenizer(command_line.tokenizer_path, command_line.config))]
    settled_by_machine = defaults_from(command_line.model_path, command_line.config, on_cpu=not machine.gpus)
    if machine.gpus:
        settled_by_machine |= gpu_defaults(command_line, machine)
    for name, value in settled_by_machine.items():
        settled += [f"--{name.replace('_', '-')}", str(value)]
    # SGLang's own parser would print hundreds of options above the error. Abbreviations are not allowed, because the
    # parsers that read the command line before this one would miss them.
    parser = argparse.ArgumentParser(prog=PROGRAM, usage=USAGE, allow_abbrev=False)
    add_options(parser)
    usual = vars(parser.parse_args([*settled, *translated]))
    arguments = [*settled, *translated, *command_line.others]
    given = vars(parser.parse_args(arguments))
    changed = {name: (value, usual[name]) for name, value in given.items() if value != usual[name]}
    refuse_untested(changed, machine.environment)
    server_args = server_args_of(arguments)
    refuse_unsupported(resolved(server_args))
    refuse_quantization(resolved(server_args), machine.capability)
    refuse_missing_gpus(server_args, machine.gpus)
    if machine.gpu_bytes and resolved(server_args).device == "cuda":
        if (share := command_line.choices.get(MEMORY)) is None or share.by_guide:
            ceiling = 1.0 if share is None else share.value
            plan = _plan(command_line, server_args, machine)
            fraction = static_share(plan, resolved(server_args).mem_fraction_static, ceiling)
            # ServerArgs cannot be changed after they have been resolved.
            server_args = server_args_of([*arguments, MEMORY.sglang[0], str(fraction)])
            if share is not None:
                why = "SGLang's option bounds weights and KV cache only, and everything else must fit too"
                notes.append(f"{share.written} becomes {MEMORY.sglang[0]} {fraction}: {why}")
        notes.append(str(plan := _plan(command_line, server_args, machine)))
        if plan.problem:
            raise ValueError(
                f"--model-path {command_line.model}: {plan.problem}. {plan}. "
                f"Split the model with {RANKS.guide} (now {server_args.tp_size}), or use a larger card"
            )
    return server_args, notes


def gpu_defaults(command_line: CommandLine, machine: Machine) -> dict[str, Any]:
    """Return SGLang's options that depend on the GPU, unless the command line sets them."""
    # Otherwise SGLang would open a CUDA context and a GiB of buffers for clips in the HTTP process.
    settled: dict[str, Any] = {"mm_feature_transport": "cpu"}
    if 0 < machine.gpu_bytes < _SMALL_CARD_BYTES:
        settled["chunked_prefill_size"] = 2048  # SGLang's own 4096 would take the memory of the KV cache
    if machine.capability[0] == 10:
        settled["attention_backend"] = "flashinfer"  # SGLang's own choice there does not support a page size of 1
    if SEQUENCES not in command_line.choices:
        settled["max_running_requests"] = MOST_ROWS
    if machine.gpu_bytes and not any(argument.startswith("--cuda-graph") for argument in command_line.others):
        ranks, rows = (
            command_line.choices[option].value if option in command_line.choices else default
            for option, default in ((RANKS, 1), (SEQUENCES, MOST_ROWS))
        )
        settled["cuda_graph_max_bs_decode"] = graph_rows(
            command_line.config, ranks, machine.gpu_bytes, rows, fp8=command_line.quantization == "fp8"
        )
    return settled


def _plan(command_line: CommandLine, server_args: Any, machine: Machine) -> MemoryPlan:
    codec = command_line.own.codec_device != "cpu"
    return plan_memory(command_line.config, resolved(server_args), machine.gpu_bytes, codec=codec)


def served_tokenizer(model_path: Path, config: SpeechLMConfig) -> Path:
    """Return the directory of the tokenizer to serve: the checkpoint's, or a copy with the config's ids.

    Raises:
        ValueError: if there is no tokenizer, or it is of another kind.
    """
    try:
        files = tokenizer_files(model_path, config)
    except CheckpointError as error:
        raise ValueError(f"--model-path, --tokenizer-path {model_path}: {error}") from error
    if files is None:
        return model_path
    folder = Path(tempfile.mkdtemp(prefix="tokenizer-"))
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


class _SGLangHelp(argparse.Action):
    """Prints SGLang's own help."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        stock = argparse.ArgumentParser(prog=parser.prog, add_help=False)
        add_options(stock)
        stock.print_help()
        parser.exit()


def _epilog() -> str:
    lines = ["SGLang's options are accepted too, except those that cannot work or are untested with SpeechLM:"]
    lines += ["those are refused by name. The most used:"]
    lines += [f"  {name:<26} {text}" for name, text in _USED_MOST]
    lines += ["", f"Scripts put their defaults before {OVERRIDDEN_BY}; options after it win, under either name."]
    lines += [
        "",
        "SIGTERM and SIGINT: /health and new requests get a 503, running answers finish, and the server exits",
    ]
    lines += ["within --drain-timeout plus 20 s. A second signal ends it at once. Exit statuses:"]
    lines += [f"  {status.value}  {status.meaning}" for status in ExitStatus]
    return "\n".join(lines)
