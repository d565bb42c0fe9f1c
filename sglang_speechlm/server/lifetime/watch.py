"""Watch the server's other processes from a thread of the HTTP process."""

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
    """Reports processes without a heartbeat, and ends the server if one hangs.

    Args:
        heartbeats: heartbeats by the name of the process.
        has_started: whether the models have been loaded, so that all heartbeats are regular.
        when_hung: takes the name of a process that hangs; called in this watch's thread.
    """

    def __init__(
        self, heartbeats: Mapping[str, Heartbeat], has_started: Callable[[], bool], when_hung: Callable[[str], None]
    ) -> None:
        self._silences = {name: Silence(heartbeat) for name, heartbeat in heartbeats.items()}
        self._has_started = has_started
        self._when_hung = when_hung

    def start(self) -> None:
        """Start watching."""
        threading.Thread(target=self._watch, name="watch", daemon=True).start()

    def trouble(self) -> str | None:
        """Return which processes do not respond at present; None if all do."""
        late = [name for name, silence in self._silences.items() if silence.seconds > LATE_SECONDS]
        return f"no heartbeat from the {', the '.join(late)}" if late else None

    def _watch(self) -> None:
        while True:
            time.sleep(INTERVAL_SECONDS)
            patience = HUNG_SECONDS if self._has_started() else START_SECONDS
            hung = [name for name, silence in self._silences.items() if silence.look() > patience]
            if hung:
                self._when_hung(hung[0])
                return
