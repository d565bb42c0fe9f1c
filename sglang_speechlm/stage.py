"""The contract between the HTTP process and the scheduler: the parameters of a stage and the keys of its results.

A stage travels as SGLang's ``SamplingParams.custom_params``. The scheduler parses it once, when it queues the request,
and keeps it with the request (``sglang_hooks/req.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

Guidance = Annotated[float, Field(ge=1, le=20, allow_inf_nan=False)]
"""Scale of classifier-free guidance; 1 is none."""

FRAMES = "frames"
"""Key of ``customized_info`` and ``meta_info``: the frames so far, one per output id, in chunks for ``frames_of``."""

FRAME_ID = np.dtype("<i4")
"""Type of the ids in a chunk of frames."""

UNCONDITIONAL_CACHED = "unconditional_cached_tokens"
"""Key of ``meta_info``: positions of the unconditional branch's prompt that the radix cache held, once per frame."""

PAIR_MARGIN = 16
"""Positions of the memory pool that are kept free when the length of the longest guided request is computed."""


class StageParams(BaseModel):
    """The parameters of a stage that any client may set.

    Attributes:
        audio: whether the stage generates frames instead of text.
        min_frames: minimum number of frames.
        cfg: guidance scale.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    audio: bool = False
    min_frames: Annotated[int, Field(ge=0, lt=2**31)] = 0
    cfg: Guidance = 1.0

    @property
    def is_guided(self) -> bool:
        """Whether the stage has an unconditional branch."""
        return self.audio and self.cfg != 1.0


class Stage(StageParams):
    """One stage, as the HTTP process describes it to the scheduler.

    Attributes:
        continues: whether an earlier stage of the same answer has run; a full queue must then still accept this one.
        pieces: how many more frames complete each piece of sound; the last number repeats. Frames are sent only when
            they complete a piece, and at the beginning and the end; without numbers, as SGLang's stream_interval says.
    """

    continues: bool = False
    pieces: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(strict=False)] = ()

    def next_output(self, frames: int) -> int:
        """Return how many frames complete the next piece after the first ``frames``. Only with ``pieces``."""
        end = 0
        for more in chain(self.pieces, repeat(self.pieces[-1])):
            end += more
            if end > frames:
                return end
        raise AssertionError("the last number repeats")

    @classmethod
    def parse(cls, custom_params: Any) -> Stage:
        """Parse a request's ``custom_params``; None means a text stage.

        Raises:
            ValueError: naming the field, what is allowed and the value.
        """
        try:
            return cls.model_validate(custom_params or {})
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            field = ".".join(("custom_params", *map(str, first["loc"])))
            raise ValueError(f"{field}: {first['msg']}; got {first['input']!r}") from error


TEXT_STAGE = Stage()
"""The text stage with which an answer starts."""


def frames_of(chunks: Sequence[bytes | None], num_stream: int) -> npt.NDArray[np.int32]:
    """Return the frames in chunks, int32 [n, num_stream]. A chunk is the bytes of frames, or None for a text id."""
    data = b"".join(chunk for chunk in chunks if chunk is not None)
    return np.frombuffer(data, FRAME_ID).reshape(-1, num_stream)
