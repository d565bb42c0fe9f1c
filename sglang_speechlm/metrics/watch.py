"""Counts one reply from its start to its end."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Literal

from sglang_speechlm.metrics.definitions import (
    AUDIO_SECONDS,
    FIRST_AUDIO_SECONDS,
    FIRST_TEXT_SECONDS,
    FRAMES,
    REPLIES,
    REPLIES_RUNNING,
    REPLY_SECONDS,
    TEXT_SECONDS,
)

Mode = Literal["text", "spoken", "guided"]


class ReplyWatch:
    """A context around one reply; leaving it counts the reply by how it ended.

    Attributes:
        finish_reason: set it when the reply has ended. Leaving the context without it counts an "abort", leaving by an
            exception of ``refusals`` a "refused" reply, by another exception an "error". Afterwards: how it ended.
        frames: number of frames so far.
    """

    def __init__(self, mode: Mode, refusals: type[Exception]) -> None:
        """Take the mode of the reply, and the exceptions that mean a refusal."""
        self._mode = mode
        self._kind = "guided" if mode == "guided" else "plain"
        self._refusals = refusals
        self._text_end: float | None = None
        self._has_written = False
        self._has_sounded = False
        self.finish_reason: str | None = None
        self.frames = 0

    def __enter__(self) -> ReplyWatch:
        self._start = time.monotonic()
        REPLIES_RUNNING.add(1, mode=self._mode)
        return self

    def wrote(self) -> None:
        """Count a piece of generated text."""
        if not self._has_written:
            self._has_written = True
            FIRST_TEXT_SECONDS.observe(time.monotonic() - self._start, mode=self._mode)

    def text_ended(self) -> None:
        """Count the end of the text."""
        self._text_end = time.monotonic()
        TEXT_SECONDS.observe(self._text_end - self._start, mode=self._mode)

    def decoded(self, frames: int) -> None:
        """Count new frames."""
        self.frames += frames
        FRAMES.add(frames, kind=self._kind)

    def sounded(self, seconds: float) -> None:
        """Count a delivered piece of sound of ``seconds``."""
        if not self._has_sounded:
            self._has_sounded = True
            assert self._text_end is not None
            FIRST_AUDIO_SECONDS.observe(time.monotonic() - self._text_end, mode=self._mode)
        AUDIO_SECONDS.add(seconds, kind=self._kind)

    def __exit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self.finish_reason is not None and kind is None:
            REPLY_SECONDS.observe(time.monotonic() - self._start, mode=self._mode)
        elif kind is not None and issubclass(kind, Exception):
            self.finish_reason = "refused" if issubclass(kind, self._refusals) else "error"
        else:
            self.finish_reason = "abort"
        REPLIES_RUNNING.add(-1, mode=self._mode)
        REPLIES.add(mode=self._mode, finish_reason=self.finish_reason)
