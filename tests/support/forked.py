"""Run a function in a process forked from the tests' own, which has imported everything already."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from subprocess import CompletedProcess


class Forked:
    """A forked process that runs ``function``; its standard output and standard error are kept.

    Args:
        function: ``sys.exit`` ends it as it ends a program. No thread of the tests runs in the process.
    """

    def __init__(self, function: Callable[[], object]) -> None:
        self._streams = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        self._process = get_context("fork").Process(target=self._run, args=(function,))
        self._process.start()

    def _run(self, function: Callable[[], object]) -> None:
        sys.stdout, sys.stderr = self._streams
        function()

    def result(self) -> CompletedProcess[str]:
        """Wait for its end; a negative exit status is that of a signal."""
        self._process.join()
        texts = []
        for stream in self._streams:
            with stream:
                stream.seek(0)
                texts.append(stream.read())
        assert self._process.exitcode is not None
        return CompletedProcess([], self._process.exitcode, *texts)
