"""Change how another package's module is imported."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType


def before_import(name: str, prepare: Callable[[Path], None]) -> None:
    """Call ``prepare`` just before the first line of a module runs, with the module's folder.

    Idempotent; imports nothing itself.

    Args:
        name: the full name of a module. Nothing happens if it has been imported already.
        prepare: a function of a module, so that it equals itself where this is called again.
    """
    _install(_Finder(name, prepare, _nothing))


def after_import(name: str, change: Callable[[ModuleType], None]) -> None:
    """Call ``change`` with a module just after its last line has run, before anything is imported from it.

    Idempotent; imports nothing itself.

    Args:
        name: the full name of a module. Nothing happens if it has been imported already.
        change: a function of a module, so that it equals itself where this is called again.
    """
    _install(_Finder(name, _nothing, change))


def _install(finder: _Finder) -> None:
    if finder.name not in sys.modules and finder not in sys.meta_path:
        sys.meta_path.insert(0, finder)


def _nothing(_: object) -> None:
    pass


@dataclass(frozen=True)
class _Finder(MetaPathFinder):
    name: str
    prepare: Callable[[Path], None]
    change: Callable[[ModuleType], None]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find the module as the finders after this one do, and surround its import."""
        if fullname != self.name:
            return None
        others = sys.meta_path[sys.meta_path.index(self) + 1 :]
        spec = next(filter(None, (finder.find_spec(fullname, path, target) for finder in others)), None)
        if spec is None or spec.loader is None or spec.origin is None:
            return None
        folder, execute = Path(spec.origin).parent, spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            self.prepare(folder)
            execute(module)
            self.change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec
