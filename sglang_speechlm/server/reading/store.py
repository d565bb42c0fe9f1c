"""Recent spoken answers by id: a later message may refer to one, and its frames become history."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

KEPT_SECONDS = 3600


@dataclass(frozen=True, eq=False)
class KeptAnswer:
    """A spoken answer.

    Attributes:
        text: the answer's text.
        text_ids: int32 [n], without end markers.
        codes: uint16 [T, num_stream], with the delay removed.
        expires: in seconds since the epoch.
    """

    text: str
    text_ids: npt.NDArray[np.int32]
    codes: npt.NDArray[np.uint16]
    expires: float

    @property
    def size(self) -> int:
        """Size in bytes."""
        return len(self.text.encode()) + self.text_ids.nbytes + self.codes.nbytes


class AnswerStore:
    """A store that is bounded in time, number and bytes; the oldest answers are dropped first.

    Args:
        max_answers: maximum number of answers.
        max_bytes: maximum total size; a larger single answer is not kept.
        clock: returns seconds since the epoch.
    """

    def __init__(self, max_answers: int, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        self._max_answers = max_answers
        self._max_bytes = max_bytes
        self._clock = clock
        self._answers: OrderedDict[str, KeptAnswer] = OrderedDict()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._answers)

    def keep(self, audio_id: str, text: str, text_ids: Sequence[int], codes: npt.ArrayLike) -> int:
        """Keep an answer; return when it expires, in seconds since the epoch."""
        answer = KeptAnswer(
            text, np.array(text_ids, np.int32), np.array(codes, np.uint16), self._clock() + KEPT_SECONDS
        )
        self._answers[audio_id] = answer
        self._bytes += answer.size
        while len(self._answers) > self._max_answers or self._bytes > self._max_bytes:
            self._drop_oldest()
        self._drop_expired()
        return math.floor(answer.expires if audio_id in self._answers else self._clock())

    def get(self, audio_id: str) -> KeptAnswer | None:
        """Return the answer if it is still there, else None."""
        self._drop_expired()
        return self._answers.get(audio_id)

    def _drop_expired(self) -> None:
        now = self._clock()
        while self._answers and next(iter(self._answers.values())).expires <= now:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        _, answer = self._answers.popitem(last=False)
        self._bytes -= answer.size
