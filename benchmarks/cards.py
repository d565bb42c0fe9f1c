"""Check whether a server would start on GPUs that are not installed: SGLang's option resolution on simulated cards.

    python -m benchmarks.cards

A card's name, capability and memory replace the answers of torch and nvidia-smi; the launcher does everything else,
with the defaults of `launch/serve_cfg_1.sh` and `launch/serve_cfg.sh` at the released model's sizes, in bfloat16 and
with `--quantization fp8`. The table shows the options for each card, or why a server would not start; no memory is
measured.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.checkpoints import released_sizes
from sglang_speechlm.config import SpeechLMConfig

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30
LAUNCH = Path(__file__).parents[1] / "launch"


@dataclass(frozen=True)
class Card:
    """A card's properties.

    Attributes:
        name: torch's name.
        capability: CUDA capability.
        mebibytes: memory according to nvidia-smi.
    """

    name: str
    capability: tuple[int, int]
    mebibytes: int


CARDS = {
    "4090": Card("NVIDIA GeForce RTX 4090", (8, 9), 24564),
    "5090": Card("NVIDIA GeForce RTX 5090", (12, 0), 32607),
    "L40S": Card("NVIDIA L40S", (8, 9), 46068),
    "A100-40": Card("NVIDIA A100-SXM4-40GB", (8, 0), 40960),
    "A100-80": Card("NVIDIA A100-SXM4-80GB", (8, 0), 81920),
    "H100": Card("NVIDIA H100 80GB HBM3", (9, 0), 81559),
    "H200": Card("NVIDIA H200", (9, 0), 143771),
    "B200": Card("NVIDIA B200", (10, 0), 183359),
}
SCRIPTS = {1: "serve_cfg_1.sh", 4: "serve_cfg.sh"}
"""Scripts by the number of GPUs that they use."""
WEIGHTS = {"bfloat16": (), "fp8": ("--quantization", "fp8")}
"""Options by the precision of the served weights."""
ROWS = [("bfloat16", 1), ("bfloat16", 4), ("fp8", 1)]
"""The precision of the served weights, and the number of GPUs, for each of the cards."""


@functools.cache
def _import_as_on_a_gpu() -> Any:
    """Import SGLang with CUDA as its platform, and skip its kernels, which are not installed.

    Call it only in a process that serves nothing.
    """
    import sglang_speechlm  # noqa: F401
    from sglang_speechlm.model import announce

    announce(override=True)
    with mock.patch.multiple(torch.cuda, is_available=lambda: True, get_device_name=lambda *_: "NVIDIA"):
        from sglang.srt.utils import common

        assert common.current_platform.is_cuda()
    _forget(common)
    from sglang.srt.plugins import load_plugins

    from sglang_speechlm.sglang_hooks.registry import import_own_model_alone

    import_own_model_alone()
    load_plugins()
    return common


def _forget(common: Any) -> None:
    """Clear what SGLang has cached about the machine."""
    for value in vars(common).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


@contextmanager
def simulated(card: Card) -> Iterator[None]:
    """Make torch and SGLang see eight of this card."""
    common = _import_as_on_a_gpu()
    with (
        mock.patch.object(torch.version, "cuda", "13.0"),
        mock.patch.multiple(
            torch.cuda,
            is_available=lambda: True,
            device_count=lambda: 8,
            get_device_name=lambda *_: card.name,
            get_device_capability=lambda *_: card.capability,
        ),
        mock.patch.object(common, "get_nvgpu_memory_capacity", return_value=card.mebibytes),
        mock.patch.object(common, "is_flashinfer_available", return_value=True),
    ):
        _forget(common)
        try:
            yield
        finally:
            _forget(common)


def script_defaults(name: str) -> list[str]:
    """Return the arguments that a script of `launch/` passes before its user's."""
    common = re.search(r"--max-model-len.*(?= \"\$@\")", (LAUNCH / "serve.sh").read_text())
    own = re.search(r"--port.*(?= --overridden-by)", (LAUNCH / name).read_text())
    assert common
    assert own
    return [*common[0].split(), *own[0].split(), "--overridden-by"]


def resolve(card: Card, folder: Path, arguments: Sequence[str]) -> tuple[Any, list[str]]:
    """Return SGLang's options and the launcher's notes for this card.

    Raises:
        ValueError: if a server would not start.
    """
    with simulated(card):
        from sglang_speechlm.options.command_line import CommandLine, build_parser, settle
        from sglang_speechlm.options.server import OwnOptions
        from sglang_speechlm.options.vllm_names import Machine, choose

        choices, rest = choose(arguments)
        parsed, others = build_parser().parse_known_args(["--model-path", str(folder), *rest])
        own = OwnOptions.of(parsed)
        config = SpeechLMConfig.from_pretrained(folder)
        command_line = CommandLine(str(folder), folder, folder, config, own, choices, others)
        return settle(command_line, Machine.here())


def row(name: str, ranks: int, precision: str, folder: Path) -> dict[str, Any]:
    """Return a card's row of the table, with the script for ``ranks`` GPUs: its options, or why it fails."""
    from sglang_speechlm.options.gpu_memory import plan_memory
    from sglang_speechlm.sglang_hooks.options import resolved

    card = CARDS[name]
    shown: dict[str, Any] = {"card": name, "GPUs": ranks, "served in": precision}
    shown["memory"] = round(card.mebibytes / 1024, 2)
    try:
        server_args, _ = resolve(card, folder, [*script_defaults(SCRIPTS[ranks]), *WEIGHTS[precision]])
    except (ValueError, AssertionError) as error:
        return shown | {"starts": f"no: {error}"}
    options = resolved(server_args)
    plan = plan_memory(SpeechLMConfig.from_pretrained(folder), options, card.mebibytes * MEBIBYTE, codec=True)
    return shown | {
        "starts": "yes" if plan.fits else f"no: {plan.problem or 'the rest does not fit'}",
        "attention": options.attention_backend,
        "mem-fraction": options.mem_fraction_static,
        "chunk": options.chunked_prefill_size,
        "graph rows": options.cuda_graph_config.decode.max_bs,
        "graph sizes": len(options.cuda_graph_config.decode.bs),
        "positions": plan.positions,
        **{part: round(size / GIBIBYTE, 2) for part, size in plan.parts.items()},
    }


def main() -> int:
    """Print the table; return 1 if a server would fail on any card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as scratch:
        folder = released_sizes(Path(scratch))
        rows = [row(name, ranks, precision, folder) for precision, ranks in ROWS for name in CARDS]
    if as_json:
        print(json.dumps(rows))
    else:
        names = list(max(rows, key=lambda figures: len(list(figures))))
        print(" | ".join(names))
        for figures in rows:
            print(" | ".join(str(figures.get(name, "")) for name in names))
    return 0 if all(figures["starts"] == "yes" for figures in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
