"""Ctrl-C: a line and status 130 instead of a traceback."""

from __future__ import annotations

import os
import sys
from types import TracebackType

INTERRUPTED = 130
"""Exit status of an interrupted program: 128 plus the number of SIGINT, as in shells."""


def end_without_traceback() -> None:
    """Make this process end with one line and status 130 wherever it is interrupted, even while it is importing."""
    sys.excepthook = _end


def _end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)  # Python would end itself with SIGINT
