"""The command ``speechlm``: a short name for each ``python -m sglang_speechlm.*``."""

from __future__ import annotations

import runpy
import sys

from sglang_speechlm import __version__
from sglang_speechlm.interrupt import end_without_traceback

_COMMANDS = {
    "serve": ("sglang_speechlm.launch", "serve a checkpoint over HTTP with one server, or several behind one port"),
    "convert": (
        "sglang_speechlm.convert",
        "convert a published or trained checkpoint to a directory that can be served",
    ),
    "demo": ("sglang_speechlm.demo", "start a small server and let it write, speak and listen"),
    "client": ("sglang_speechlm.client", "send one question to a running server, as text or as a clip"),
}


def main() -> None:
    """Run the subcommand that the command line names, as ``python -m`` would run its module."""
    end_without_traceback()
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(_usage())
    elif name == "--version":
        print(f"speechlm {__version__}")
    elif name in _COMMANDS:
        sys.argv[:2] = [f"speechlm {name}"]
        runpy.run_module(_COMMANDS[name][0], run_name="__main__", alter_sys=True)
    else:
        sys.exit(f"speechlm: unknown command {name!r}\n\n{_usage()}")


def _usage() -> str:
    lines = ["usage: speechlm COMMAND [OPTIONS]", ""]
    lines += [f"  {name:<8} {help} (python -m {module})" for name, (module, help) in _COMMANDS.items()]
    return "\n".join([*lines, "", "speechlm COMMAND --help shows the options of a command."])
