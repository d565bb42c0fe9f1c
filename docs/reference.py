"""Build the reference of the Python API from its docstrings: `python docs/reference.py FOLDER`."""

import sys
from importlib import import_module
from pathlib import Path

import pdoc

MODULES = ("sglang_speechlm", "sglang_speechlm.checkpoint", "sglang_speechlm.stage")
LAZY = ("sglang_speechlm", "sglang_speechlm.frontend")
"""Modules whose names are imported on first use; pdoc reads modules' dictionaries."""


def main(folder: Path) -> None:
    """Write one page for each public module, and an index."""
    for name in LAZY:
        module = import_module(name)
        for public in module.__all__:
            getattr(module, public)
    pdoc.render.configure(docformat="google", footer_text="sglang-speechlm")
    pdoc.pdoc(*MODULES, output_directory=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
