"""Lines that cannot be written are dropped: a full disk under the log stops nobody's answer."""

from __future__ import annotations

import io
import sys
from typing import Any


def forgive_failing_writes() -> None:
    """Have this process's standard output and error lose what the device does not take, instead of raising OSError.

    Loggers forgive by themselves; progress bars and ``print`` do not.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        before = getattr(sys, name)
        if before is not None:  # it was closed by whoever started this process
            file = io.BufferedWriter(_Forgiving(descriptor, "wb", closefd=False))
            setattr(sys, name, io.TextIOWrapper(file, before.encoding, before.errors, line_buffering=True))


class _Forgiving(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
