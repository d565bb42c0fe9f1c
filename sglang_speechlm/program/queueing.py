"""Wait for a place in a full queue, for the later parts of one answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from sglang_speechlm.program.engine import Engine, StageRefused
from sglang_speechlm.program.reply import Piece

_ATTEMPTS = 60
_WAIT_SECONDS = 1.0
"""Time between two attempts to queue a part."""


async def later_part(
    engine: Engine, aborts: int, begin: Callable[[], AsyncGenerator[Piece]], forget: Callable[[], object]
) -> AsyncGenerator[Piece]:
    """Yield the pieces of a later part of an answer, which waits for a place in a full queue; first parts are refused.

    Args:
        engine: runs the answer's stages.
        aborts: its ``aborts`` when the answer began; a part that SGLang does not know yet ends with the others, too.
        begin: begins the part and returns its pieces.
        forget: called if the part is refused, before it is begun again.

    Raises:
        StageRefused: if the part fails, or the queue stays full. It is ``begun``: if the client tried again, the
            earlier parts would be generated twice.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        if engine.aborts != aborts:
            raise StageRefused(503, "aborted", begun=True, aborted=True)
        try:
            async with aclosing(begin()) as pieces:
                async for piece in pieces:
                    yield piece
            return
        except StageRefused as error:
            if not error.is_temporary or attempt == _ATTEMPTS:
                error.begun = True
                raise
        forget()
        await asyncio.sleep(_WAIT_SECONDS)
