"""The contract between the HTTP process and the scheduler: what a stage is told, and what comes back.

A stage travels as SGLang's ``SamplingParams.custom_params``. The scheduler parses it once, where it queues the request,
and keeps it there (``sglang_hooks/req.py``).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Guidance = Annotated[float, Field(ge=1, le=20, allow_inf_nan=False)]
"""Scale of classifier-free guidance; 1 is none."""

FRAMES = "frames"
"""Key of ``customized_info`` and ``meta_info``: the frames so far, [F][num_stream] ids, aligned with the output ids."""

UNCONDITIONAL_CACHED = "unconditional_cached_tokens"
"""Key of ``meta_info``: positions of the unconditional branch's prompt that the radix cache held, once per frame."""

PAIR_MARGIN = 16
"""Positions of the memory pool that are left aside when the longest guided request is worked out."""


class StageParams(BaseModel):
    """What any client may ask of a stage.

    Attributes:
        audio: whether the stage continues in frames rather than in text.
        min_frames: frames before which the audio may not end.
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
    """One stage, as the HTTP process tells the scheduler.

    Attributes:
        continues: whether an earlier stage of the same answer has run, which a full queue must not turn away.
    """

    continues: bool = False

    @classmethod
    def parse(cls, custom_params: Any) -> Stage:
        """Parse a request's ``custom_params``; None is a stage of text.

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
"""A stage of text that is an answer's first."""
