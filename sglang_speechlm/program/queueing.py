"""Wait for a place in a full queue, for the later parts of one answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from sglang_speechlm.program.engine import StageRefused
from sglang_speechlm.program.reply import Piece

_ATTEMPTS = 60
_WAIT_SECONDS = 1.0
"""Time between two attempts to queue a part."""


async def later_part(begin: Callable[[], AsyncGenerator[Piece]], forget: Callable[[], object]) -> AsyncGenerator[Piece]:
    """Yield the pieces of a later part of an answer, which waits for a place in a full queue; first parts are refused.

    Args:
        begin: begins the part and returns its pieces.
        forget: called if the part is refused, before it is begun again.

    Raises:
        StageRefused: if the part fails, or the queue stays full. It is ``begun``: if the client tried again, the
            earlier parts would be generated twice.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            async with aclosing(begin()) as pieces:
                async for piece in pieces:
                    yield piece
            return
        except StageRefused as error:
            if error.status != 503 or error.begun or attempt == _ATTEMPTS:
                raise StageRefused(error.status, str(error), begun=True) from error
        forget()
        await asyncio.sleep(_WAIT_SECONDS)
