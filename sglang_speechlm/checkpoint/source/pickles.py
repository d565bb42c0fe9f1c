"""Read pickles without running their code.

A pickle names functions and calls them. Here, any name that is not in the reader's table becomes a stand-in that
accepts any call and any state and does nothing. This skips everything that was pickled along with the tensors.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import IO, Any

from sglang_speechlm.config.files import FAULTS


class Skipped:
    """A stand-in for an object that was not built."""

    def __new__(cls, *_: Any, **__: Any) -> Skipped:
        """Accept the arguments of any constructor."""
        return super().__new__(cls)

    def __call__(self, *_: Any, **__: Any) -> Skipped:
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Accept an item, as a list."""

    def extend(self, _: Any) -> None:
        """Accept items, as a list."""

    def add(self, _: Any) -> None:
        """Accept an item, as a set."""


class TableUnpickler(pickle._Unpickler):
    """Builds plain Python values, and the classes and functions in a table.

    It extends the unpickler in Python, because the one in C allocates as many values as a pickle's memo claims to have.
    """

    def __init__(
        self,
        file: IO[bytes],
        table: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        """Read from ``file``.

        Args:
            table: the class or function to use, by module and name.
            persistent: resolves a persistent id.
        """
        super().__init__(file)
        self._table = table
        self._persistent = persistent

    def load(self) -> Any:
        """Read the whole pickle.

        Raises:
            UnpicklingError: if it is not a pickle, is cut short, or holds values of kinds that no such file has.
        """
        try:
            return super().load()
        except FAULTS as error:
            detail = str(error) or type(error).__name__
            raise pickle.UnpicklingError(f"not a pickle, or cut short ({detail})") from error

    def find_class(self, module: str, name: str) -> Any:
        """Return the table's entry; else a new stand-in class, because a pickle may set attributes of a class, too."""
        found = self._table.get((module, name))
        return found if found is not None else type(name.rpartition(".")[2] or "Skipped", (Skipped,), {})

    def persistent_load(self, pid: Any) -> Any:
        """Resolve a persistent id.

        Raises:
            UnpicklingError: if the file must not have any.
        """
        if self._persistent is None:
            raise pickle.UnpicklingError("has a persistent id, which is not allowed here")
        return self._persistent(pid)
