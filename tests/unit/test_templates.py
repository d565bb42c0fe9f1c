"""Templates: how they are filled, what is omitted, and what is refused."""

from pathlib import Path

import pytest

from sglang_speechlm.prompt.layout import Heard, Text
from sglang_speechlm.prompt.presets import load_preset, load_template
from sglang_speechlm.prompt.templates import SpeechTemplate, Template, TranscriptionTemplate

DEFAULT = load_preset("default")


def encode(text: str) -> list[int]:
    return list(text.encode())


def write_template(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "template.json"
    file.write_text(text)
    return file


def fill(template: Template, **values: str | None) -> list[tuple[str, str]]:
    messages = template.fill({"instructions": None, "voice": None, **values}, encode)
    return [(message.role, bytes(message.content.ids).decode()) for message in messages]  # type: ignore[union-attr]


def test_input_and_instructions_are_filled_in() -> None:
    messages = fill(DEFAULT.speech, input="Good day.", instructions="Whisper.")
    assert messages[-1] == ("user", "Read this aloud. Whisper.\n\nGood day.")


def test_empty_fields_of_the_request_are_omitted() -> None:
    for empty in (None, "", " ", "\u200b"):
        messages = fill(DEFAULT.speech, input="Good day.", instructions=empty)
        assert messages[-1] == ("user", "Read this aloud.\n\nGood day.")


def test_placeholders_inside_values_are_not_replaced() -> None:
    value = "{instructions} {input} {0} {input.__class__} {{x}} %s $input"
    messages = fill(DEFAULT.speech, input=value, instructions="{input}")
    assert messages[-1][1] == f"Read this aloud. {{input}}\n\n{value}"


def test_a_message_that_becomes_empty_is_omitted(tmp_path: Path) -> None:
    text = '{"messages": [{"role": "system", "content": "{instructions}"}, {"role": "user", "content": "{input}"}]}'
    template = load_template(SpeechTemplate, write_template(tmp_path, text))
    assert fill(template, input="Hello.", instructions=None) == [("user", "Hello.")]
    assert fill(template, input="Hello.", instructions="Sing.") == [("system", "Sing."), ("user", "Hello.")]


def test_the_clip_is_inserted_where_the_template_says(tmp_path: Path) -> None:
    text = '{"messages": [{"role": "user", "content": ["Listen: ", {"type": "audio"}, "Write", " it in {language}."]}]}'
    clip = Heard(None)  # type: ignore[arg-type]
    messages = load_template(TranscriptionTemplate, write_template(tmp_path, text)).fill(
        {"language": "French"}, encode, clip
    )
    contents = [message.content for message in messages]
    assert contents[1] is clip
    assert [bytes(content.ids).decode() for content in contents if isinstance(content, Text)] == [
        "Listen: ",
        "Write it in French.",
    ]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not JSON"),
        ("[]", "object"),
        ("{}", "messages"),
        ('{"messages": []}', "messages"),
        ('{"messages": [{"role": "speaker", "content": "{input}"}]}', "messages.0.role"),
        ('{"messages": [{"role": "user"}]}', "messages.0.content"),
        ('{"messages": [{"role": "user", "content": []}]}', "messages.0.content"),
        ('{"messages": [{"role": "user", "content": "{input}", "name": "me"}]}', "messages.0.name"),
        ('{"messages": [{"role": "user", "content": "{inputs}"}]}', "inputs"),
        ('{"messages": [{"role": "user", "content": ["{input}", {"type": "audio"}]}]}', "0 times"),
    ],
)
def test_an_invalid_template_is_refused(text: str, complaint: str, tmp_path: Path) -> None:
    file = write_template(tmp_path, text)
    with pytest.raises(ValueError, match=complaint) as error:
        load_template(SpeechTemplate, file)
    assert str(file) in str(error.value)


def test_a_transcription_template_needs_its_clip(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="1 times"):
        load_template(
            TranscriptionTemplate, write_template(tmp_path, '{"messages": [{"role": "user", "content": "Write."}]}')
        )


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.json"):
        load_template(SpeechTemplate, tmp_path / "none.json")


def test_values_without_a_placeholder_are_reported(tmp_path: Path) -> None:
    template = load_template(
        SpeechTemplate, write_template(tmp_path, '{"messages": [{"role": "user", "content": "{input}"}]}')
    )
    assert template.unused({"input": "Hello.", "instructions": "Sing.", "voice": " "}) == ["instructions"]
    assert DEFAULT.speech.unused({"input": "Hello.", "instructions": "Sing.", "voice": None}) == []
