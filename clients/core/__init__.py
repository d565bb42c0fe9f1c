"""The shared modules of the client scripts, in the order in which a line of the input passes them.

source, lines, messages, audio, request, ask, answer, score, results, tally, summary, picture and espnet; run.py drives
them, and check.py verifies the results. files.py and ledger.py ensure that no file is lost. options.py reads the
command line, and the scripts call command.py.
"""

import os
import sys
from types import TracebackType


def _end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """End with a line and status 130 if the script is interrupted before it has begun, for example during imports."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(130)


sys.excepthook = _end
