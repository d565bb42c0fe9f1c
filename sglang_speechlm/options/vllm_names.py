"""The usage guide's option names, which are vLLM's, and their translation to SGLang on this machine."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sglang_speechlm.sglang_hooks.options import gpu_bytes, numa_nodes

PROGRAM = "python -m sglang_speechlm.launch"
USAGE = "%(prog)s --model-path DIR [options] (see --help and --help-sglang)"

OVERRIDDEN_BY = "--overridden-by"
"""Separates a script's defaults from its user's options, which win under either name."""

CPU_CORES = "SGLANG_CPU_OMP_THREADS_BIND"
LONGER_CONTEXT = "SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"


@dataclass(frozen=True)
class GuideOption:
    """An option with its names.

    Attributes:
        guide: the guide's name.
        sglang: SGLang's names; the option is translated to the first.
        kind: type of the value; None for a switch.
        help: text for ``--help``.
    """

    guide: str
    sglang: tuple[str, ...]
    kind: type[int] | type[float] | None
    help: str


RANKS = GuideOption("--tensor-parallel-size", ("--tp-size", "--tp"), int, "GPUs that share the model")
SEQUENCES = GuideOption(
    "--max-num-seqs",
    ("--max-running-requests",),
    int,
    "maximum rows of a batch; a guided answer takes two while it speaks",
)
POSITIONS = GuideOption(
    "--max-model-len", ("--context-length",), int, "context length: maximum positions of a prompt and its answer"
)
MEMORY = GuideOption(
    "--gpu-memory-utilization",
    ("--mem-fraction-static",),
    float,
    "maximum share of GPU memory for weights and KV cache; less if everything else needs more",
)
PREFIXES = GuideOption(
    "--enable-prefix-caching",
    ("--disable-radix-cache",),
    None,
    "reuse the KV cache of shared prompt prefixes (default: on)",
)
OPTIONS = (RANKS, SEQUENCES, POSITIONS, MEMORY, PREFIXES)


@dataclass(frozen=True)
class Machine:
    """A machine to fit options to.

    Attributes:
        gpus: number of GPUs that torch sees.
        numa_nodes: number of NUMA nodes with cores that this process may use.
        environment: its variables.
        gpu_bytes: memory of its smallest GPU.
        capability: CUDA capability of its first GPU.
    """

    gpus: int
    numa_nodes: int
    environment: Mapping[str, str]
    gpu_bytes: float = 0.0
    capability: tuple[int, int] = (0, 0)

    @classmethod
    def here(cls) -> Machine:
        """Return this machine."""
        import torch

        if not torch.cuda.is_available():
            return cls(0, numa_nodes(), os.environ)
        gpus, capability = torch.cuda.device_count(), torch.cuda.get_device_capability()
        return cls(gpus, numa_nodes(), os.environ, gpu_bytes(), capability)

    @property
    def bound_ranks(self) -> int | None:
        """Number of ranks for which the environment names cores; None if it does not."""
        cores = self.environment.get(CPU_CORES, "all")
        return None if cores == "all" else len(cores.split("|"))


@dataclass(frozen=True)
class Choice:
    """The value of an option.

    Attributes:
        value: as SGLang's option takes it; for the switch, whether prefixes are cached.
        written: the option and its value, as written on the command line.
        by_guide: whether it was set under the guide's name.
        is_default: whether a script set it, rather than its user.
    """

    value: Any
    written: str
    by_guide: bool
    is_default: bool


def add_guide_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options under the guide's names."""
    for option in OPTIONS:
        if option.kind is None:
            parser.add_argument(option.guide, action=argparse.BooleanOptionalAction, help=option.help)
        else:
            read = _above_0(option.kind)
            metavar = "SHARE" if option.kind is float else "N"
            text = f"{option.help} (SGLang: {option.sglang[0]})"
            parser.add_argument(option.guide, type=read, metavar=metavar, help=text)


def choose(arguments: Sequence[str]) -> tuple[dict[GuideOption, Choice], list[str]]:
    """Return the options with two names on a command line, and the remaining arguments.

    Raises:
        ValueError: if both names of an option are given with different values in the same part of the command line.
    """
    at = arguments.index(OVERRIDDEN_BY) if OVERRIDDEN_BY in arguments else 0
    of_script, rest = _read(arguments[:at], is_default=True)
    of_user, others = _read([argument for argument in arguments[at:] if argument != OVERRIDDEN_BY], is_default=False)
    return of_script | of_user, rest + others


def _read(arguments: Sequence[str], *, is_default: bool) -> tuple[dict[GuideOption, Choice], list[str]]:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, usage=USAGE, add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS
    )
    add_guide_options(parser)
    for option in OPTIONS:
        if option.kind is None:
            parser.add_argument(*option.sglang, action="store_true")
        else:
            parser.add_argument(*option.sglang, type=_above_0(option.kind))
    found, rest = parser.parse_known_args(list(arguments))
    choices = {}
    for option in OPTIONS:
        named = [
            Choice(*_value(option, name, getattr(found, _dest(name))), name == option.guide, is_default)
            for name in (option.guide, option.sglang[0])
            if hasattr(found, _dest(name))
        ]
        if len({choice.value for choice in named}) > 1:
            raise ValueError(f"{' and '.join(choice.written for choice in named)} contradict each other; give one")
        if named:
            choices[option] = named[0]
    return choices, rest


def _dest(name: str) -> str:
    return name.removeprefix("--").replace("-", "_")


def _value(option: GuideOption, name: str, given: Any) -> tuple[Any, str]:
    if option.kind is not None:
        return given, f"{name} {given}"
    if name == option.guide:
        return given, name if given else name.replace("--", "--no-", 1)
    return False, name


def fit(choices: Mapping[GuideOption, Choice], machine: Machine, positions: int) -> tuple[list[str], list[str]]:
    """Translate the guide's options; return SGLang's arguments, and notes on what each option became.

    Args:
        choices: the options that were set.
        machine: the machine of the server.
        positions: the checkpoint's own context length.

    Raises:
        ValueError: if an option cannot be honoured.
    """
    arguments: list[str] = []
    notes: list[str] = []

    def settle(choice: Choice, option: GuideOption, value: Any, why: str = "") -> None:
        arguments.extend((option.sglang[0], str(value)))
        if why:
            notes.append(f"{choice.written} becomes {option.sglang[0]} {value}: {why}")
        elif choice.by_guide:
            notes.append(f"{choice.written} is SGLang's {option.sglang[0]} {value}")

    ranks = choices.get(RANKS, Choice(1, f"{RANKS.guide} 1 (the default)", by_guide=False, is_default=True))
    number, why = _ranks(ranks, machine)
    if RANKS in choices:
        settle(ranks, RANKS, number, why)
    if (rows := choices.get(SEQUENCES)) is not None:
        settle(rows, SEQUENCES, rows.value)
    if (length := choices.get(POSITIONS)) is not None:
        settle(length, POSITIONS, *_positions(length, machine, positions))
    if (share := choices.get(MEMORY)) is not None:
        if not share.by_guide:
            settle(share, MEMORY, share.value)
        elif not machine.gpus:
            notes.append(f"{share.written} is ignored: no GPU found (--max-total-tokens bounds the KV cache)")
    if (prefixes := choices.get(PREFIXES)) is not None:
        if not prefixes.value:
            arguments.append(PREFIXES.sglang[0])
        if prefixes.by_guide:
            became = "radix cache, on by default" if prefixes.value else PREFIXES.sglang[0]
            notes.append(f"{prefixes.written} is SGLang's {became}")
    return arguments, notes


def _ranks(choice: Choice, machine: Machine) -> tuple[int, str]:
    """Return the possible number of ranks, and why it differs. On a CPU, a rank has a NUMA node or named cores."""
    wanted: int = choice.value
    if machine.gpus:
        return wanted, ""
    bound = machine.bound_ranks
    if bound is not None:
        if wanted < bound:
            raise ValueError(
                f"{choice.written}: the variable {CPU_CORES} names the cores of {bound} ranks; "
                f"unset it or set {RANKS.guide} {bound}"
            )
        return bound, f"no GPU found, and {CPU_CORES} names the cores of {bound}" if wanted > bound else ""
    possible = next(ranks for ranks in range(min(wanted, machine.numa_nodes), 0, -1) if wanted % ranks == 0)
    if possible == wanted:
        return wanted, ""
    return possible, (
        f"no GPU found, and the CPU has {machine.numa_nodes} NUMA node(s); "
        f"{CPU_CORES}='0-3|4-7' would name the cores of two ranks"
    )


def _positions(choice: Choice, machine: Machine, most: int) -> tuple[int, str]:
    wanted: int = choice.value
    if wanted <= most or machine.environment.get(LONGER_CONTEXT, "").lower() in ("1", "true"):
        return wanted, ""
    if choice.is_default:
        return most, "the limit of the checkpoint (max_position_embeddings)"
    raise ValueError(f"{choice.written}: exceeds the checkpoint's limit of {most} positions (max_position_embeddings)")


def _above_0(kind: type[int] | type[float]) -> Any:
    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = kind(0)
        if not (value > 0 and (kind is int or value <= 1)):
            allowed = "a whole number of at least 1" if kind is int else "above 0 and at most 1"
            raise argparse.ArgumentTypeError(f"must be {allowed}; got {text}")
        return value

    return read
