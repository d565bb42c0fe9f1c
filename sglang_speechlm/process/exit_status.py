"""How a server ended, as whoever started it learns it."""

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
        """What happened, in words."""
        return _MEANINGS[self]


_MEANINGS = {
    ExitStatus.STOPPED: "stopped as told; every answer that was running has been finished",
    ExitStatus.FAILED: "an error that nobody foresaw; the log has it",
    ExitStatus.BAD_OPTIONS: "an option was refused, by name",
    ExitStatus.NOT_STARTED: "it did not come up: the model or the codec could not be loaded",
    ExitStatus.WARM_UP_FAILED: "it came up, but a warm-up answer failed",
    ExitStatus.PART_DIED: "one of its processes died; answers that were running got an error or a closed connection",
    ExitStatus.CUT_OFF: "stopped as told, but answers were cut off: --drain-timeout ran out, or it was told twice",
}
