"""What a request comes to: several ways of saying the same thing, resolved to one program request."""

from __future__ import annotations

import secrets
from typing import Any

from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.program.bounds import Bound, speech_bound
from sglang_speechlm.program.request import AudioSettings, GivenText, ReplyRequest, TextSettings
from sglang_speechlm.prompt.layout import Prompt
from sglang_speechlm.prompt.words import can_be_said
from sglang_speechlm.server.edge.errors import bad_field, shown
from sglang_speechlm.server.reading.schema import Asking
from sglang_speechlm.tokenizer import TextTokenizer

_PASSED_THROUGH = (
    "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "stop", "ignore_eos",
)  # fmt: skip
TEXT_ONLY = ("top_p", *_PASSED_THROUGH, "min_tokens", "stop_token_ids")
"""Fields that shape a text which the model writes, and no sound."""

_LEAST_TOP_P = 1e-6
"""What a top-p of 0 is: SGLang takes none, and the likeliest id is always a candidate."""

_QUIET_INTERVAL = 32
"""Ids between two outputs of a text that nobody reads as it comes."""


def asked_for(body: Asking, name: str, *top_level: str, default: Any = None) -> Any:
    """``speechlm`` wins over ``vllm_xargs``, and both over the top-level fields that say the same."""
    places = [(body.speechlm, name), (body.vllm_xargs, name), *((body, field) for field in top_level)]
    values = (getattr(place, field, None) for place, field in places if place is not None)
    return next((value for value in values if value is not None), default)


def wants_audio(body: Asking) -> bool:
    """Whether the answer is to be spoken as well as written."""
    return asked_for(body, "mode") == "text_audio" or "audio" in (body.modalities or ())


def resolve(
    body: Asking,
    request_id: str,
    prompt: Prompt,
    config: SpeechLMConfig,
    tokenizer: TextTokenizer,
    capacity: int,
    text_bound: Bound | None = None,
    spoken_ids: int | None = None,
    cfg: float = 1.0,
) -> ReplyRequest:
    """The program's request.

    Args:
        capacity: positions that one request may take; the budget where the body names none.
        text_bound: of a text whose length follows from what is asked, which is then ended where it loops.
        spoken_ids: ids that are spoken, where this is known and no text is given.
        cfg: guidance where the body names none.

    Raises:
        ApiError: where fields contradict each other, or ask for what cannot be.
    """
    for name in body.logit_bias or {}:
        # Python refuses to read numbers of thousands of digits.
        if not (name.isascii() and name.isdecimal() and len(name) < 20 and int(name) < config.vocab_size):
            raise bad_field("logit_bias", f"keys must be ids from 0 to {config.vocab_size - 1}; got {shown(name)}")
    spoken = wants_audio(body)
    if body.ignore_eos and spoken:
        raise bad_field(
            "ignore_eos", "goes with an answer that is only written; speechlm.audio_min_frames lengthens audio"
        )
    if (body.min_tokens or 0) > (limit := body.max_completion_tokens or body.max_tokens or capacity):
        raise bad_field("min_tokens", f"must not exceed max_tokens, {limit} here; got {body.min_tokens}")
    given = body.speechlm.text if body.speechlm is not None else None
    given_text = None
    if given is not None:
        if not spoken:
            raise bad_field("speechlm.text", 'a given text is only spoken: it needs "mode": "text_audio"')
        if not can_be_said(given):
            raise bad_field("speechlm.text", f"must have a letter, a digit or a sign to be said; got {shown(given)}")
        try:
            given_text = GivenText(given, (*tokenizer.encode(given, capacity), config.ids.eot))
        except ValueError as error:
            raise bad_field("speechlm.text", str(error)) from error
    max_tokens = body.max_completion_tokens or body.max_tokens
    text_max_tokens = asked_for(body, "text_max_tokens")
    return ReplyRequest(
        id=request_id,
        prompt=prompt,
        text=TextSettings(
            temperature=asked_for(body, "text_temperature", "temperature", default=config.text_temperature),
            top_k=asked_for(body, "text_top_k", "top_k", default=config.text_topk),
            max_tokens=text_max_tokens or (None if max_tokens else config.text_max_tokens),
            stop_token_ids=tuple(body.stop_token_ids or ()),
            others={
                **{name: value for name in _PASSED_THROUGH if (value := getattr(body, name)) is not None},
                **({} if body.top_p is None else {"top_p": max(body.top_p, _LEAST_TOP_P)}),
                **({"min_new_tokens": body.min_tokens} if body.min_tokens else {}),
                "stream_interval": 1 if body.stream else _QUIET_INTERVAL,
            },
            bound=None if max_tokens or text_max_tokens or _exceeds(body.min_tokens, text_bound) else text_bound,
            ends_loops=text_bound is not None,
        ),
        audio=_audio_settings(body, config, len(given_text.ids) if given_text else spoken_ids, max_tokens, cfg)
        if spoken
        else None,
        max_tokens=max_tokens or capacity,
        seed=asked_for(body, "seed", "seed", default=secrets.randbits(63)),
        given_text=given_text,
    )


def _exceeds(min_tokens: int | None, bound: Bound | None) -> bool:
    return min_tokens is not None and bound is not None and min_tokens > bound.tokens


def _audio_settings(
    body: Asking, config: SpeechLMConfig, spoken_ids: int | None, max_tokens: int | None, cfg: float
) -> AudioSettings:
    min_frames = asked_for(body, "audio_min_frames")
    max_frames = asked_for(body, "audio_max_frames")
    if min_frames is not None and max_frames is not None and min_frames > max_frames:
        raise bad_field("speechlm.audio_min_frames", f"must not exceed audio_max_frames {max_frames}; got {min_frames}")
    if min_frames is None:
        min_frames = config.audio_min_frames or config.num_stream
    names_no_limit = not max_tokens and not max_frames
    return AudioSettings(
        temperature=asked_for(body, "audio_temperature", "temperature", default=config.audio_temperature),
        top_k=asked_for(body, "audio_topk", "top_k", default=config.audio_topk),
        min_frames=min_frames,
        max_frames=max_frames or (None if max_tokens else config.audio_max_frames),
        cfg=float(asked_for(body, "cfg", default=cfg)),
        bound=speech_bound(spoken_ids, min_frames) if spoken_ids and names_no_limit else None,
        is_bounded_by_text=names_no_limit,
    )
