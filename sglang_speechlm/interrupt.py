"""Ctrl-C: a line and status 130 in place of a traceback."""

from __future__ import annotations

import os
import sys
from types import TracebackType

INTERRUPTED = 130
"""Exit status of a program that was interrupted: 128 and the number of SIGINT, as shells have it."""


def end_without_traceback() -> None:
    """Have this process end so wherever it is interrupted, also while it imports what it needs."""
    sys.excepthook = _end


def _end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)  # Python would end itself by SIGINT
