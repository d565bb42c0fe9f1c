"""What the client scripts share, in the order in which things happen to a line of the input.

source, lines, messages, audio, request, ask, answer, score, results, tally, summary, picture and espnet; run.py drives
them, and check.py looks at what came of it. files.py and ledger.py see to it that no file is lost. options.py reads the
command line, and command.py is what a script calls.
"""

import os
import sys
from types import TracebackType


def _end(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    """End with a line and status 130 where the script is interrupted before it has begun, as while it imports."""
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    print("interrupted", file=sys.stderr, flush=True)
    os._exit(130)


sys.excepthook = _end
