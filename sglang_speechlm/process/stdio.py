"""Standard streams: closed ones are opened, failing writes do not fail answers, and clients cannot fill the log."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
from typing import Any


def open_closed_streams() -> None:
    """Let standard streams that the parent process has closed read and write ``/dev/null``.

    Libraries expect them, and the next files that are opened would get their descriptors, and with them the output of C
    libraries. Call it before any file is opened.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # the lowest that is free: the stream's own
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, mode, closefd=False))


def ignore_failing_writes() -> None:
    """Make standard output and error drop text that the device does not accept, instead of raising OSError.

    Loggers ignore such errors already; progress bars and ``print`` do not.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        before = getattr(sys, name)
        file = io.BufferedWriter(_Forgiving(descriptor, "wb", closefd=False))
        setattr(sys, name, io.TextIOWrapper(file, before.encoding, before.errors, line_buffering=True))


def silence_decoders() -> None:
    """Drop the output of C libraries to ``stderr``.

    libmpg123 prints lines for every damaged frame of a client's file, and libsndfile has no option against it. Output
    of Python, its fault handler and C++, which write to the descriptor or to their own streams, is kept.
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
