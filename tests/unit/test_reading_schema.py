"""Bodies of chat requests: OpenAI's objects as various clients send them, the product's own as documented."""

from __future__ import annotations

import re
from inspect import signature
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from sglang_speechlm.frontend import speak
from sglang_speechlm.server.edge.errors import ApiError, from_validation
from sglang_speechlm.server.reading.resolve import unused
from sglang_speechlm.server.reading.schema import (
    ChatMessage,
    ChatRequest,
    SpeechLM,
    SpeechRequest,
    TranscriptionRequest,
    VllmXargs,
)

USER = {"role": "user", "content": "Hello."}


def read(**fields: Any) -> ChatRequest:
    body = {"messages": [USER], **fields}
    try:
        return ChatRequest.model_validate(body)
    except ValidationError as error:
        raise from_validation(error, body) from error


def refusal(**fields: Any) -> str:
    with pytest.raises(ApiError) as error:
        read(**fields)
    return str(error.value)


def message(**fields: Any) -> ChatMessage:
    return read(messages=[fields]).messages[0]


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "top_k", "n", "seed", "min_tokens"])
def test_a_number_without_a_fraction_is_an_integer(name: str) -> None:
    assert getattr(read(**{name: 3.0}), name) == 3
    assert refusal(**{name: 3.5}).startswith(f"{name}: ")
    assert refusal(**{name: "3"}).startswith(f"{name}: ")
    assert refusal(**{name: True}).startswith(f"{name}: ")


def test_the_products_own_integers_may_be_written_the_same_way() -> None:
    assert read(speechlm={"audio_max_frames": 1e2, "seed": 4.0}).speechlm.audio_max_frames == 100  # type: ignore[union-attr]
    assert read(stop_token_ids=[3.0]).stop_token_ids == [3]


def test_zero_disables_top_k_and_is_accepted_for_top_p() -> None:
    assert read(top_k=0).top_k == -1
    assert read(top_p=0).top_p == 0


@pytest.mark.parametrize("place", ["top", "stream_options", "audio", "speechlm", "vllm_xargs"])
def test_null_equals_a_missing_optional_field(place: str) -> None:
    fields = ChatRequest.model_fields
    nested = {"stream_options": ("include_usage",), "audio": ("format", "voice")}
    if place == "top":
        read(**dict.fromkeys(name for name in fields if name != "messages"))
    else:
        annotation = read(**{place: {}})
        names = nested.get(place) or type(getattr(annotation, place)).model_fields
        read(**{place: dict.fromkeys(names)})


def test_the_developer_role_is_the_system_role() -> None:
    assert message(role="developer", content="Be brief.").role == "system"


def test_the_result_of_a_call_has_the_tool_role() -> None:
    assert message(role="tool", content="4", tool_call_id="a").role == "tool"
    text = refusal(messages=[{"role": "function", "content": "4"}])
    assert text.startswith("messages[0].role: must be 'system', 'user', 'assistant' or 'tool'")


@pytest.mark.parametrize("kind", ["text", "input_text", "output_text"])
def test_text_parts_may_have_the_type_names_of_the_responses_api(kind: str) -> None:
    parts = message(role="assistant", content=[{"type": kind, "text": "Hi."}]).parts
    assert [part.text for _, part in parts] == ["Hi."]


def test_a_refusal_is_read_as_the_assistants_text() -> None:
    assert message(role="assistant", content=None, refusal="No.").parts[0][1].text == "No."
    assert message(role="assistant", content=[{"type": "refusal", "refusal": "No."}]).parts[0][1].text == "No."


def test_thinking_may_have_either_name() -> None:
    assert message(role="assistant", content="4", reasoning="2 + 2").reasoning_content == "2 + 2"
    assert message(role="assistant", content="4", reasoning={"effort": "low"}).reasoning_content is None


def test_raw_audio_of_a_chat_may_have_either_name() -> None:
    assert read(audio={"format": "pcm"}).audio.format == "pcm16"  # type: ignore[union-attr]


@pytest.mark.parametrize("value", ["text", {"type": "text"}, None, {}])
def test_plain_text_may_be_requested(value: Any) -> None:
    read(response_format=value)


@pytest.mark.parametrize("name", ["return_token_ids", "return_tokens_as_token_ids", "return_hidden_states"])
def test_an_unsupported_form_of_answer_is_refused(name: str) -> None:
    assert refusal(**{name: True}).startswith(f"{name}: ")


@pytest.mark.parametrize("content", [None, "", [], [{"type": "text", "text": ""}] * 2])
def test_a_message_may_be_empty(content: Any) -> None:
    assert message(role="user", content=content).parts == []


def test_empty_parts_are_omitted() -> None:
    parts = message(role="user", content=[{"type": "text", "text": ""}, {"type": "text", "text": "Hi."}]).parts
    assert [place for place, _ in parts] == ["content[1]"]


def test_unrelated_fields_of_a_part_are_ignored() -> None:
    audio = {"data": "UklGRg==", "format": None, "sample_rate": 16000}
    parts = message(
        role="user",
        content=[
            {"type": "text", "text": "Hi.", "cache_control": {"type": "ephemeral"}, "input_audio": None},
            {"type": "input_audio", "input_audio": audio, "text": None, "image_url": 5},
        ],
    ).parts
    assert [part.type for _, part in parts] == ["text", "input_audio"]


PART = "messages[0].content[0]"


@pytest.mark.parametrize(
    ("place", "part"),
    [
        (f"{PART}.text: is required", {"type": "text"}),
        (f"{PART}.text: must be a string; got 5", {"type": "text", "text": 5}),
        (f"{PART}.input_audio: is required", {"type": "input_audio", "text": "Hi."}),
        (f"{PART}.input_audio.data: is required", {"type": "input_audio", "input_audio": {}}),
        (f"{PART}.audio_url.url: is required", {"type": "audio_url", "audio_url": {}, "url": "x"}),
        (f"{PART}.type: is required", {"text": "Hi."}),
        (f"{PART}.type: must be 'text', 'input_audio' or 'audio_url'; got 'image_url'", {"type": "image_url"}),
    ],
)
def test_an_error_names_the_wrong_field(place: str, part: Any) -> None:
    assert refusal(messages=[{"role": "user", "content": [part]}]) == place


@pytest.mark.parametrize(
    ("message", "stop"),
    [
        ("stop: must have at most 16 items; got [", ["a"] * 17),
        ("stop[1]: must be a string; got 5", ["a", 5]),
        ("stop[0]: must not be empty; got ''", [""]),
        ("stop: must not be empty; got ''", ""),
        ("stop: must be a string or a list; got 5", 5),
    ],
)
def test_an_error_says_what_the_nearest_alternative_allows(message: str, stop: Any) -> None:
    assert refusal(stop=stop).startswith(message)


def test_a_misspelt_object_is_named() -> None:
    assert refusal(vllm_xarg={}) == "vllm_xarg: is unknown; did you mean 'vllm_xargs'?"
    assert refusal(cfg=2) == "cfg: belongs in the object speechlm: speechlm.cfg"
    assert read(mode="chat").unread() == ("ignored: 'mode'",)


@pytest.mark.parametrize("name", ["nothing", "text"])
def test_an_unknown_field_is_named_with_the_known_ones(name: str) -> None:
    message = refusal(vllm_xargs={name: 5, "mode": "text_audio"})
    assert message.startswith(f"vllm_xargs.{name}: is unknown; allowed: mode, phase, ")
    assert message.endswith("; got 5")


@pytest.mark.parametrize("value", [None, True, -1, 1e9, 0.5, "x", "", [], [5] * 20, {}, {"x": "y"}])
@pytest.mark.parametrize("kind", [ChatRequest, SpeechRequest, TranscriptionRequest, SpeechLM])
def test_no_error_is_worded_by_the_library(kind: type[BaseModel], value: Any) -> None:
    for name in kind.model_fields:
        body = {name: value}
        try:
            kind.model_validate(body)
        except ValidationError as error:
            message = str(from_validation(error, body))
            assert not re.search(
                "[Ii]nput should|should be|should have|[Ff]ield required|valid |not permitted", message
            )
        except ApiError:
            pass


@pytest.mark.parametrize("audio", [None, {}, {"id": None}, {"id": "", "data": None, "transcript": None}])
def test_an_answer_without_sound_may_be_sent_back_unchanged(audio: Any) -> None:
    answer = {"role": "assistant", "content": "Yes.", "refusal": None, "audio": audio, "annotations": None}
    nulls = {"tool_calls": None, "function_call": None, "reasoning_content": None, "name": None}
    assert [part.text for _, part in message(**answer, **nulls).parts] == ["Yes."]


@pytest.mark.parametrize("part", [{"type": "text", "text": None}, {"type": "refusal", "refusal": None}])
def test_a_part_of_a_history_may_be_empty(part: Any) -> None:
    assert message(role="assistant", content=[part]).parts == []


def test_errors_show_values_as_json() -> None:
    assert refusal(messages=None) == "messages: must be a list; got null"
    assert refusal(temperature=True) == "temperature: must be a number; got true"
    assert refusal(seed=[None, {"a": False}]) == "seed: must be an integer; got [null, {'a': false}]"


SOUND_ONLY = [("speechlm", name) for name in SpeechLM.model_fields if name.startswith("audio_") or name == "cfg"]
SOUND_ONLY += [("vllm_xargs", name) for _, name in SOUND_ONLY if name in VllmXargs.model_fields]


@pytest.mark.parametrize(("place", "name"), SOUND_ONLY)
def test_an_unused_setting_of_sound_gives_a_warning(place: str, name: str) -> None:
    body = read(**{place: {name: 2}})
    (warning,) = unused(body, is_spoken=False, is_given=False)
    assert warning.startswith(f"{place}.{name}: ")
    assert list(unused(body, is_spoken=True, is_given=False)) == []


def test_no_guidance_gives_no_warning_to_an_answer_in_text() -> None:
    assert list(unused(read(speechlm={"cfg": 1}), is_spoken=False, is_given=False)) == []


def test_scripts_can_set_what_a_request_can_set_of_sound() -> None:
    names = {name for place, name in SOUND_ONLY if place == "speechlm"}
    assert names <= signature(speak).parameters.keys()


def test_unused_settings_of_generated_text_give_warnings() -> None:
    warnings = list(unused(read(top_p=0.5, stop=["a"]), is_spoken=True, is_given=True))
    assert [warning.partition(":")[0] for warning in warnings] == ["top_p", "stop"]


def test_a_hundred_thousand_unknown_fields_are_not_examined() -> None:
    fields = {f"speech_{number}": 1 for number in range(100_000)}
    assert len(read(**fields).unread()[0]) < 300
    assert "guided_json" in refusal(**fields, guided_json={"type": "object"})
