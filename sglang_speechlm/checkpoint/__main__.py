"""Command line of the builder, with one option per field of the spec."""

from __future__ import annotations

import argparse
import typing
from dataclasses import fields
from pathlib import Path

from sglang_speechlm.checkpoint.random.builder import build_checkpoint
from sglang_speechlm.checkpoint.random.spec import CheckpointSpec


def main(arguments: list[str] | None = None) -> None:
    """Build the checkpoint that the options describe, and print its directory."""
    parser = _parser()
    values = vars(parser.parse_args(arguments))
    output = values.pop("output")
    try:
        directory = build_checkpoint(output, spec=CheckpointSpec(**values))
    except (ValueError, FileExistsError) as error:
        parser.error(str(error))
    size = sum(file.stat().st_size for file in directory.rglob("*.safetensors"))
    print(f"{directory}: {size / 1e6:.1f} MB")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sglang_speechlm.checkpoint",
        description="Build a checkpoint with random weights, in the layout of the released ones.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="a new or empty directory")
    types = typing.get_type_hints(CheckpointSpec)
    for field in fields(CheckpointSpec):
        flag = "--" + field.name.replace("_", "-")
        kind = types[field.name]
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction, default=field.default, help=" ")
        elif typing.get_origin(kind) is typing.Literal:
            parser.add_argument(flag, choices=typing.get_args(kind), default=field.default, help=" ")
        else:
            parser.add_argument(flag, type=kind, default=field.default, help=" ")
    return parser


if __name__ == "__main__":
    main()
