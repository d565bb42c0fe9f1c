"""Failures, raised where the script reads a variable that they affect."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NoReturn

from sglang.lang.interpreter import StreamExecutor


class SpeechLMError(RuntimeError):
    """The server refused a request of the script, or the script used what this backend does not offer.

    Attributes:
        status: the server's HTTP status; None if the request never got an answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def surfacing(executor: Any) -> Iterator[None]:
    """Raise failures of this block again in the script, however it continues with this state.

    The language runs a state in its own thread. If that thread died of an error, the script would only see a missing
    variable, and its next statement would wait for the dead thread forever.

    Args:
        executor: the language's StreamExecutor of the state.
    """
    try:
        yield
    except Exception as error:
        _watch_for_the_scripts_end()
        failure = error

        def refuse(_expression: Any) -> NoReturn:
            raise failure

        executor.variables = _Variables(executor.variables, error)
        executor.submit = refuse
        raise


@cache
def _watch_for_the_scripts_end() -> None:
    """End the forks of failed programs at exit, because nothing else does and Python would wait for their threads."""

    def end_all() -> None:
        threading.main_thread().join()
        for executor in gc.get_objects():
            if type(executor) is StreamExecutor:
                executor.end()

    threading.Thread(target=end_all, daemon=True).start()


class _Variables(dict[str, Any]):
    """The variables of a failed state: reading a missing one raises the failure, and so does copying them."""

    def __init__(self, known: dict[str, Any], failure: Exception) -> None:
        super().__init__(known)
        self._failure = failure

    def __missing__(self, name: str) -> NoReturn:
        raise self._failure

    def __iter__(self) -> NoReturn:
        raise self._failure

    def keys(self) -> NoReturn:
        raise self._failure
