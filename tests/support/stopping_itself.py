"""A launcher whose server stops itself after uvicorn has started and before the application has."""

from __future__ import annotations

import logging
import os
import runpy
import signal
import time
from typing import Any

handle = logging.Logger.handle


def handle_and_stop(logger: logging.Logger, record: logging.LogRecord) -> None:
    """Handle a record; stop the server at the line between the two."""
    handle(logger, record)
    if record.getMessage() == "Waiting for application startup.":
        os.kill(os.getppid(), signal.SIGTERM)
        time.sleep(3600)


if __name__ == "__main__":
    patched: Any = logging.Logger
    patched.handle = handle_and_stop
    runpy.run_module("sglang_speechlm.launch", run_name="__main__", alter_sys=True)
