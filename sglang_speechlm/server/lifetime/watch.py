"""Watches the processes that serve beside the HTTP process, from a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping

from sglang_speechlm.process.heartbeat import (
    HUNG_SECONDS,
    INTERVAL_SECONDS,
    LATE_SECONDS,
    START_SECONDS,
    Heartbeat,
    Silence,
)

logger = logging.getLogger(__name__)


class Watch:
    """Says who is late, and ends the server when somebody hangs.

    Args:
        hearts: by the name of the process.
        has_started: whether models have been loaded, so that every heart beats regularly.
        when_hung: takes the name of a process that hangs; called in this watch's thread.
    """

    def __init__(
        self, hearts: Mapping[str, Heartbeat], has_started: Callable[[], bool], when_hung: Callable[[str], None]
    ) -> None:
        self._silences = {name: Silence(heart) for name, heart in hearts.items()}
        self._has_started = has_started
        self._when_hung = when_hung

    def start(self) -> None:
        """Watch from now on."""
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def trouble(self) -> str | None:
        """Who does not respond at present; None if all do."""
        late = [name for name, silence in self._silences.items() if silence.seconds > LATE_SECONDS]
        return f"no sign of life from the {', the '.join(late)}" if late else None

    def _watch(self) -> None:
        while True:
            time.sleep(INTERVAL_SECONDS)
            patience = HUNG_SECONDS if self._has_started() else START_SECONDS
            hung = [name for name, silence in self._silences.items() if silence.look() > patience]
            if hung:
                self._when_hung(hung[0])
                return
