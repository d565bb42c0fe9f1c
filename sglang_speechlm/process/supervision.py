"""Tasks that live as long as the server: an error is logged and they go on."""

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
        longest: seconds of a pause at most.
    """

    def __init__(self, first: float, longest: float) -> None:
        self._first = first
        self._longest = longest
        self._next = first

    def reset(self) -> None:
        """Begin with the first pause again."""
        self._next = self._first

    def next(self) -> float:
        """Seconds of the pause to make now."""
        seconds, self._next = self._next, min(2 * self._next, self._longest)
        return seconds


async def repeat(
    step: Callable[[], Awaitable[None]],
    backoff: Backoff,
    *,
    expected: type[Exception] | tuple[type[Exception], ...] = (),
    fatal: type[Exception] | tuple[type[Exception], ...] = (),
) -> NoReturn:
    """Await ``step`` again and again, for ever, with a pause whenever it raises.

    Args:
        step: resets ``backoff`` when it has got somewhere.
        backoff: the pauses.
        expected: exceptions that are logged in one line, without a traceback.
        fatal: exceptions that are passed on.

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
                "%s; trying again in %g s",
                error if isinstance(error, expected) else f"Unexpected {type(error).__name__}",
                seconds,
                exc_info=not isinstance(error, expected),
            )
            await asyncio.sleep(seconds)
