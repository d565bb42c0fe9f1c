"""Prepare the import of another package's module."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


def before_import(name: str, prepare: Callable[[Path], None]) -> None:
    """Call ``prepare`` just before the first line of a module runs, with the module's folder.

    Idempotent; imports nothing itself.

    Args:
        name: the full name of a module. Nothing happens if it has been imported already.
        prepare: a function of a module, so that it equals itself where this is called again.
    """
    finder = _Finder(name, prepare)
    if name not in sys.modules and finder not in sys.meta_path:
        sys.meta_path.insert(0, finder)


class _Finder(MetaPathFinder):
    def __init__(self, name: str, prepare: Callable[[Path], None]) -> None:
        self._name, self._prepare = name, prepare

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Finder) and (self._name, self._prepare) == (other._name, other._prepare)

    def __hash__(self) -> int:
        return hash((self._name, self._prepare))

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the module as Python does, and prepare its import before its first line runs."""
        spec = PathFinder.find_spec(fullname, path, target) if fullname == self._name else None
        if spec is None or spec.loader is None or spec.origin is None:
            return None
        folder, execute = Path(spec.origin).parent, spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self._prepare(folder)
            execute(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
