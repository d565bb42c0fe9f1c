"""What a process writes to its standard streams: nobody's answer depends on it, and no client decides it."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
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


def silence_decoders() -> None:
    """Drop what libraries in C print to ``stderr``.

    libmpg123 prints lines for every damaged frame of a client's file, and libsndfile has no option against it. Python,
    its fault handler and C++ write to the descriptor or to a stream of their own, and are still heard.
    """
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    with contextlib.suppress(ValueError):  # other C libraries have no variable of this name
        stderr = ctypes.c_void_p.in_dll(libc, "stderr")
        stderr.value = libc.fopen(os.devnull.encode(), b"w")


class _Forgiving(io.FileIO):
    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
