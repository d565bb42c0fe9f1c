"""SGLang's command line. The functions import SGLang's modules, so that ``--help`` need not wait for them."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any


def load_plugins() -> None:
    """Make SGLang load its plugins, including this package's, and apply their hooks."""
    from sglang.srt.plugins import hook_registry, load_plugins

    in_all_modules = hook_registry._propagate_patch

    def in_modules(original: object, wrapped: object, source: object) -> int:
        """Skip the search of all modules for other names of a method: it has none, and the searches take a moment."""
        return 0 if isinstance(source, type) else in_all_modules(original, wrapped, source)

    hook_registry._propagate_patch = in_modules
    try:
        load_plugins()
    finally:
        hook_registry._propagate_patch = in_all_modules


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add SGLang's options to a parser."""
    from sglang.srt.server_args import ServerArgs

    ServerArgs.add_cli_args(parser)


def server_args(arguments: Sequence[str]) -> Any:
    """Return SGLang's ServerArgs for a command line, checked and resolved. Load its plugins first.

    Raises:
        ValueError, AssertionError: from SGLang's checks.
        SystemExit: from argparse.
    """
    from sglang.srt.server_args import prepare_server_args

    parsed = prepare_server_args(list(arguments))
    parsed._launch_command = None  # it has the keys, and SGLang shows it to clients
    parsed.resolve_once()
    return parsed


def resolved(server_args: Any) -> Any:
    """Return a view of SGLang's options with the values it uses; its ServerArgs keep those of the command line."""
    from sglang.srt.arg_groups.overrides import resolved_view

    return resolved_view(server_args)


def numa_nodes() -> int:
    """Return the number of NUMA nodes with cores that this process may use."""
    from sglang.srt.utils import get_cpu_ids_by_node

    return len(get_cpu_ids_by_node())


def gpu_bytes() -> float:
    """Return the memory of this machine's smallest GPU in bytes; 0 if unknown."""
    from sglang.srt.utils import get_device_memory_capacity

    return (get_device_memory_capacity("cuda") or 0) * (1 << 20)
