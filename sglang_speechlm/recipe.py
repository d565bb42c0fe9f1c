"""``python -m sglang_speechlm.recipe``: make the demonstration's model, from flite's voices only.

Every stage keeps its result in the work folder and is skipped if the result exists, so an interrupted run resumes where
it stopped. The language model takes most of the time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch

from sglang_speechlm.demo.recipe.stages import Recipe
from sglang_speechlm.demo.recipe.synthesis import SynthesisError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sglang_speechlm.recipe",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--work", type=Path, default=Path(".recipe"), help="directory of intermediate results")
    parser.add_argument("--output", type=Path, default=Path(".checkpoints/voice"), help="the served directory to write")
    for field in fields(Recipe):
        if field.name not in ("work", "output"):
            parser.add_argument("--" + field.name.replace("_", "-"), type=int, default=field.default, help=" ")
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    try:
        directory = Recipe(**vars(options)).make()
    except SynthesisError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    size = sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
    print(f"{directory}: {size / 1e6:.1f} MB; serve it with python -m sglang_speechlm.launch --model-path {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
