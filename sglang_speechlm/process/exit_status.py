"""The launcher's exit statuses, which give the reason for a server's end."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """Exit statuses of the launcher."""

    STOPPED = 0
    FAILED = 1
    BAD_OPTIONS = 2
    NOT_STARTED = 3
    WARM_UP_FAILED = 4
    PART_DIED = 5
    CUT_OFF = 6

    @property
    def meaning(self) -> str:
        """The status in words."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitStatus.STOPPED: "stopped on request; all running answers were finished",
    ExitStatus.FAILED: "unexpected error; see the log",
    ExitStatus.BAD_OPTIONS: "an option was refused; the message names it",
    ExitStatus.NOT_STARTED: "startup failed: the model or the codec could not be loaded, or the GPU cannot be used",
    ExitStatus.WARM_UP_FAILED: "startup failed: a warm-up request failed",
    ExitStatus.PART_DIED: "one of its processes died; answers that were running got an error or a closed connection",
    ExitStatus.CUT_OFF: "stopped on request, but answers were cut off, by --drain-timeout or a second signal",
}
