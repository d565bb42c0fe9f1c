"""Tasks that run as long as the server: they log an error and continue."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

logger = logging.getLogger(__name__)


class Backoff:
    """Pauses between attempts, each twice as long as the one before.

    Args:
        first: seconds of the first pause.
        longest: seconds of the longest pause.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def reset(self) -> None:
        """Start again with the first pause."""
        self._next = self._first

    def next(self) -> float:
        """Return the seconds of the next pause."""
        seconds, self._next = self._next, min(2 * self._next, self._longest)
        return seconds


async def repeat(
    step: Callable[[], Awaitable[None]],
    backoff: Backoff,
    *,
    expected: type[Exception] | tuple[type[Exception], ...] = (),
    fatal: type[Exception] | tuple[type[Exception], ...] = (),
) -> NoReturn:
    """Await ``step`` repeatedly, forever, with a pause after each exception.

    Args:
        step: must reset ``backoff`` when it has succeeded.
        backoff: the pauses.
        expected: exceptions to log in one line, without a traceback.
        fatal: exceptions to re-raise.

    Raises:
        Exception: one of ``fatal``.
    """
    while True:
        try:
            await step()
        except fatal:
            raise
        except Exception as error:
            seconds = backoff.next()
            logger.error(
                "%s; retrying in %g s",
                error if isinstance(error, expected) else f"Unexpected {type(error).__name__}",
                seconds,
                exc_info=not isinstance(error, expected),
            )
            await asyncio.sleep(seconds)
