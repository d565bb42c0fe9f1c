"""Reading pickles without running what they hold.

A pickle names functions and has them called. Here a name that is not in the reader's table, whatever it is, becomes a
stand-in that takes any call and any state and does nothing: what was pickled beside the tensors is skipped so.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from typing import IO, Any

from sglang_speechlm.config.files import FAULTS


class Skipped:
    """Stands for an object that was not built."""

    def __new__(cls, *_: Any, **__: Any) -> Skipped:
        """Take the arguments of any constructor."""
        return super().__new__(cls)

    def __call__(self, *_: Any, **__: Any) -> Skipped:
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Take an item of what was a list."""

    def extend(self, _: Any) -> None:
        """Take items of what was a list."""

    def add(self, _: Any) -> None:
        """Take an item of what was a set."""


class TableUnpickler(pickle._Unpickler):
    """Builds what a table names, and plain Python values.

    On the unpickler in Python: the one in C makes room for as many values as a pickle's memo claims to have.
    """

    def __init__(
        self,
        file: IO[bytes],
        table: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], Any] | None = None,
    ) -> None:
        """Read from ``file``.

        Args:
            table: module and name to the class or function that stands there.
            persistent: what a persistent id becomes.
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
        """The table's entry; else a new stand-in class, since a pickle may set attributes of a class too."""
        found = self._table.get((module, name))
        return found if found is not None else type(name.rpartition(".")[2] or "Skipped", (Skipped,), {})

    def persistent_load(self, pid: Any) -> Any:
        """What stands for ``pid``.

        Raises:
            UnpicklingError: where the file is to have none.
        """
        if self._persistent is None:
            raise pickle.UnpicklingError("has a persistent id, which such a file does not have")
        return self._persistent(pid)
