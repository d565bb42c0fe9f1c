"""SGLang's command line. SGLang's modules are imported by the functions: ``--help`` must not wait for them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


def load_plugins() -> None:
    """Have SGLang load its plugins, this package's among them, and apply their hooks."""
    from sglang.srt.plugins import load_plugins

    load_plugins()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add SGLang's options to a parser."""
    from sglang.srt.server_args import ServerArgs

    ServerArgs.add_cli_args(parser)


def server_args(arguments: Sequence[str]) -> Any:
    """Return the ServerArgs that SGLang makes of a command line. Its plugins must have been loaded.

    Raises:
        ValueError, AssertionError: as SGLang's checks do.
        SystemExit: as argparse does.
    """
    from sglang.srt.server_args import prepare_server_args

    return prepare_server_args(list(arguments))


def numa_nodes() -> int:
    """Return the number of NUMA nodes with cores that this process may use."""
    from sglang.srt.utils import get_cpu_ids_by_node

    return len(get_cpu_ids_by_node())


def gpu_bytes() -> float:
    """Return the memory of this machine's smallest GPU in bytes; 0 if it cannot be found out."""
    from sglang.srt.utils import get_device_memory_capacity

    return (get_device_memory_capacity("cuda") or 0) * (1 << 20)
