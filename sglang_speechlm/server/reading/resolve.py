"""Resolve a request's fields, which have several forms, to one program request."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from typing import Any

from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.program.bounds import Bound, speech_bound
from sglang_speechlm.program.request import AudioSettings, GivenText, ReplyRequest, TextSettings
from sglang_speechlm.prompt.layout import Prompt
from sglang_speechlm.prompt.words import is_speakable
from sglang_speechlm.server.edge.errors import bad_field, shown
from sglang_speechlm.server.reading.schema import CommonRequest, SpeechLM
from sglang_speechlm.tokenizer import TextTokenizer

_PASSED_THROUGH = (
    "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty", "logit_bias", "stop", "ignore_eos",
)  # fmt: skip
TEXT_ONLY = ("top_p", *_PASSED_THROUGH, "min_tokens", "stop_token_ids")
"""Fields that affect only text that the model generates."""
_SOUND_ONLY = ("cfg", *(name for name in SpeechLM.model_fields if name.startswith("audio_")))

_LEAST_TOP_P = 1e-6
"""The value for a top-p of 0, which SGLang refuses; the likeliest id always remains a candidate."""

_QUIET_INTERVAL = 32
"""Number of ids between two outputs of a text that is not streamed."""


def setting(body: CommonRequest, name: str, *top_level: str, default: Any = None) -> Any:
    """Return a setting; ``speechlm`` overrides ``vllm_xargs``, and both override the equivalent top-level fields."""
    places = [(body.speechlm, name), (body.vllm_xargs, name), *((body, field) for field in top_level)]
    values = (getattr(place, field, None) for place, field in places if place is not None)
    return next((value for value in values if value is not None), default)


def wants_audio(body: CommonRequest) -> bool:
    """Whether the request asks for a spoken answer."""
    return setting(body, "mode") == "text_audio" or "audio" in (body.modalities or ())


def unused(body: CommonRequest, *, is_spoken: bool, is_given: bool) -> Iterator[str]:
    """Yield warnings about settings that do not affect this answer.

    Args:
        body: the request.
        is_spoken: whether the answer has sound.
        is_given: whether the text is given.
    """
    if is_given:
        for name in TEXT_ONLY:
            if getattr(body, name) is not None:
                yield f"{name}: not used; it affects generated text only, and the text is given"
    if not is_spoken:
        for place in ("speechlm", "vllm_xargs"):
            for name in _SOUND_ONLY:
                if getattr(getattr(body, place), name, None) not in (None, 1 if name == "cfg" else None):
                    yield f"{place}.{name}: not used; it affects sound only, and the answer is text"


def check_ids(field: str, ids: Iterable[int], config: SpeechLMConfig) -> None:
    """Check token ids: any others would end the scheduler, for example as stop ids together with a minimum length.

    Raises:
        ApiError: 400 if one is beyond the vocabulary.
    """
    if (largest := max(ids, default=0)) >= config.vocab_size:
        raise bad_field(field, f"token ids must be below {config.vocab_size}; got {largest}")


def resolve(
    body: CommonRequest,
    request_id: str,
    prompt: Prompt,
    config: SpeechLMConfig,
    tokenizer: TextTokenizer,
    capacity: int,
    text_bound: Bound | None = None,
    spoken_ids: int | None = None,
    cfg: float = 1.0,
) -> ReplyRequest:
    """Return the program's request.

    Args:
        capacity: maximum positions of one request; the budget if the body sets none.
        text_bound: default limit of a text whose length follows from the request; such a text is stopped if it loops.
        spoken_ids: number of ids that will be spoken, if that is known and no text is given.
        cfg: guidance scale if the body sets none.

    Raises:
        ApiError: if fields contradict each other or cannot be honoured.
    """
    for name in body.logit_bias or {}:
        # Python refuses to parse numbers of thousands of digits.
        if not (name.isascii() and name.isdecimal() and len(name) < 20 and int(name) < config.vocab_size):
            raise bad_field("logit_bias", f"keys must be ids from 0 to {config.vocab_size - 1}; got {shown(name)}")
    check_ids("stop_token_ids", body.stop_token_ids or (), config)
    spoken = wants_audio(body)
    if body.ignore_eos and spoken:
        raise bad_field(
            "ignore_eos", "is only allowed for a text answer; use speechlm.audio_min_frames to lengthen audio"
        )
    if (body.min_tokens or 0) > (limit := body.max_completion_tokens or body.max_tokens or capacity):
        raise bad_field("min_tokens", f"must not exceed max_tokens ({limit}); got {body.min_tokens}")
    given = body.speechlm.text if body.speechlm is not None else None
    given_text = None
    if given is not None:
        if not spoken:
            raise bad_field("speechlm.text", 'a given text can only be spoken: it needs "mode": "text_audio"')
        if not is_speakable(given):
            raise bad_field("speechlm.text", f"must have a letter, a digit or a symbol to speak; got {shown(given)}")
        try:
            given_text = GivenText(given, (*tokenizer.encode(given, capacity), config.ids.eot))
        except ValueError as error:
            raise bad_field("speechlm.text", str(error)) from error
    max_tokens = body.max_completion_tokens or body.max_tokens
    text_max_tokens = setting(body, "text_max_tokens")
    return ReplyRequest(
        id=request_id,
        prompt=prompt,
        text=TextSettings(
            temperature=setting(body, "text_temperature", "temperature", default=config.text_temperature),
            top_k=setting(body, "text_top_k", "top_k", default=config.text_topk),
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
        seed=setting(body, "seed", "seed", default=secrets.randbits(63)),
        given_text=given_text,
    )


def _exceeds(min_tokens: int | None, bound: Bound | None) -> bool:
    return min_tokens is not None and bound is not None and min_tokens > bound.tokens


def _audio_settings(
    body: CommonRequest, config: SpeechLMConfig, spoken_ids: int | None, max_tokens: int | None, cfg: float
) -> AudioSettings:
    min_frames = setting(body, "audio_min_frames")
    max_frames = setting(body, "audio_max_frames")
    if min_frames is not None and max_frames is not None and min_frames > max_frames:
        raise bad_field("speechlm.audio_min_frames", f"must not exceed audio_max_frames {max_frames}; got {min_frames}")
    if min_frames is None:
        min_frames = config.audio_min_frames or config.num_stream
    names_no_limit = not max_tokens and not max_frames
    return AudioSettings(
        temperature=setting(body, "audio_temperature", "temperature", default=config.audio_temperature),
        top_k=setting(body, "audio_topk", "top_k", default=config.audio_topk),
        min_frames=min_frames,
        max_frames=max_frames or (None if max_tokens else config.audio_max_frames),
        cfg=float(setting(body, "cfg", default=cfg)),
        bound=speech_bound(spoken_ids, min_frames) if spoken_ids and names_no_limit else None,
        is_bounded_by_text=names_no_limit,
    )
