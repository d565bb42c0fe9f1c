"""Presets: chosen by the served directory, extended by an operator, and how they change a chat."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sglang_speechlm.demo import MODEL
from sglang_speechlm.demo.recipe.requests import preset as recipe_preset
from sglang_speechlm.options.command_line import build_parser
from sglang_speechlm.options.server import OwnOptions
from sglang_speechlm.prompt.layout import Heard, Message, Spoken, Text
from sglang_speechlm.prompt.presets import BUILT_IN, Preset, load_preset, load_template
from sglang_speechlm.prompt.templates import SpeechTemplate

SPEECH = {"messages": [{"role": "user", "content": "{input}"}]}


def encode(text: str) -> list[int]:
    return list(text.encode())


def preset(tmp_path: Path, **fields: Any) -> Preset:
    file = tmp_path / "own.json"
    file.write_text(json.dumps(fields))
    return load_preset(str(file))


def text_message(role: str, text: str) -> Message:
    return Message(role, Text(encode(text)))


def summary(messages: list[Message]) -> list[tuple[str, str]]:
    """The role of each message, and its text or the kind of its sound."""
    return [
        (m.role, bytes(m.content.ids).decode() if isinstance(m.content, Text) else type(m.content).__name__)
        for m in messages
    ]


SOUND_MESSAGE = Message("assistant", Spoken(np.zeros((9, 8), np.int64)))
CLIP = Message("user", Heard(np.zeros((128, 100), np.float32)))
CHAT = [
    text_message("system", "Be brief."), text_message("user", "One?"), text_message("assistant", "One."), SOUND_MESSAGE,
    CLIP, text_message("user", "Two?"), text_message("assistant", "Two."), text_message("user", "Three?"),
]  # fmt: skip


def as_trained(preset: Preset, messages: list[Message], *, speaks: bool = False) -> list[tuple[str, str]]:
    return summary(preset.as_trained(messages, encode, speaks=speaks)[0])


def test_the_default_does_not_change_a_chat() -> None:
    kept, warnings = load_preset("default").as_trained(CHAT, encode, speaks=True)
    assert kept == CHAT
    assert warnings == []


def test_a_directory_without_a_preset_has_the_default(tmp_path: Path) -> None:
    assert load_preset(None, tmp_path) == load_preset("default")


def test_the_directorys_preset_applies_unless_another_is_named(tmp_path: Path) -> None:
    (tmp_path / "preset.json").write_text(json.dumps({"speech": SPEECH, "earlier_turns": 3}))
    assert load_preset(None, tmp_path).earlier_turns == 3
    assert load_preset("default", tmp_path).earlier_turns is None


def test_missing_fields_of_a_preset_are_the_defaults(tmp_path: Path) -> None:
    custom = preset(tmp_path, speech=SPEECH)
    assert custom.transcription == load_preset("default").transcription
    assert custom.speech != load_preset("default").speech


def test_an_operator_may_extend_a_preset_with_a_system_turn(tmp_path: Path) -> None:
    custom = preset(tmp_path, extends="bagpiper-sft", system={"generation": "Speak."})
    assert custom.speech == load_preset("bagpiper-tts").speech
    assert as_trained(custom, [text_message("user", "Hi.")], speaks=True) == [("system", "Speak."), ("user", "Hi.")]
    assert as_trained(custom, [text_message("user", "Hi.")]) == [("user", "Hi.")]
    assert as_trained(custom, [text_message("system", "Sing."), text_message("user", "Hi.")], speaks=True)[0] == (
        "system",
        "Sing.",
    )


def test_earlier_turns_are_cut_and_the_system_turn_stays(tmp_path: Path) -> None:
    system = ("system", "Be brief.")
    last_turn = [("user", "Heard"), ("user", "Two?"), ("assistant", "Two.")]
    assert as_trained(preset(tmp_path, earlier_turns=0), CHAT) == [system, ("user", "Three?")]
    assert as_trained(preset(tmp_path, earlier_turns=1), CHAT) == [system, *last_turn, ("user", "Three?")]
    assert as_trained(preset(tmp_path, earlier_turns=2), CHAT) == summary(CHAT)


def test_omitted_turns_give_warnings(tmp_path: Path) -> None:
    custom = preset(tmp_path, earlier_turns=1, earlier_sound=False, systems=["Sing."])
    _, warnings = custom.as_trained(CHAT, encode, speaks=False)
    assert [any(word in warning for warning in warnings) for word in ("system turn", "those were")] == [True, True]
    assert (
        custom.as_trained([text_message("system", "Sing."), text_message("user", "Hi.")], encode, speaks=False)[1] == []
    )


def test_an_answer_to_be_continued_keeps_its_turn(tmp_path: Path) -> None:
    chat = [*CHAT, text_message("assistant", "Th")]
    assert as_trained(preset(tmp_path, earlier_turns=0), chat)[1:] == [("user", "Three?"), ("assistant", "Th")]


def test_earlier_sound_is_omitted_but_not_its_text(tmp_path: Path) -> None:
    kept = as_trained(preset(tmp_path, earlier_sound=False), CHAT)
    assert ("assistant", "One.") in kept
    assert ("assistant", "Spoken") not in kept


def test_a_system_turn_outside_the_training_is_omitted(tmp_path: Path) -> None:
    custom = preset(tmp_path, systems=["Be brief."])
    assert as_trained(custom, CHAT) == summary(CHAT)
    assert as_trained(custom, [text_message("system", "Rhyme."), text_message("user", "Hi.")]) == [("user", "Hi.")]


def test_a_chat_that_becomes_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="more than a system turn"):
        as_trained(preset(tmp_path, systems=["Be brief."]), [text_message("system", "Rhyme.")])


def test_bagpipers_prompt_for_speech_is_a_scene_with_the_words_quoted() -> None:
    bagpiper = load_preset("bagpiper-tts")

    def scene(voice: str | None, instructions: str | None = None) -> str:
        values = {"input": "Good day.", "instructions": instructions, "voice": bagpiper.voice(voice)}
        ((role, text),) = summary(bagpiper.speech.fill(values, encode))
        assert role == "user"
        return text

    assert scene("A calm man in a quiet room") == "A calm man in a quiet room says: 'Good day.'"
    assert scene("A man", "He is tired.") == "A man says: 'Good day.' He is tired."
    assert scene(None) == scene("alloy") != scene("onyx")
    assert bagpiper.speech_text == "written"


def test_the_demo_models_preset_matches_its_recipe() -> None:
    assert json.loads((MODEL / "preset.json").read_text()) == recipe_preset()
    demo = load_preset(None, MODEL)
    values = {"language": "en", "prompt": "x"}
    assert demo.transcription.unused(values) == ["language", "prompt"]
    assert demo.speech.unused({"input": "Hi.", "instructions": "Sing.", "voice": None}) == ["instructions"]


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_preset_is_valid(name: str) -> None:
    load_preset(name)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"speach": SPEECH}, "speach"),
        ({"extends": "whisper"}, "extends.*whisper"),
        ({"extends": ["default"]}, "extends"),
        ({"earlier_turns": -1}, "earlier_turns"),
        ({"earlier_turns": "2"}, "earlier_turns"),
        ({"default_voice": "nobody"}, "default_voice"),
        ({"speech": {"messages": []}}, "speech.messages"),
        ({"transcription": SPEECH}, "transcription"),
        ({"speech_text": "sung"}, "speech_text"),
        ({"reasoning": "qwen3"}, "reasoning"),
    ],
)
def test_an_invalid_preset_is_refused_by_file_and_field(fields: dict[str, Any], complaint: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"own\.json: {complaint}"):
        preset(tmp_path, **fields)


@pytest.mark.parametrize("text", ["", "[]", "null", '"x"', "{", "[" * 100_000])
def test_a_file_that_is_not_a_json_object_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "preset.json").write_text(text)
    with pytest.raises(ValueError, match=r"preset\.json"):
        load_preset(None, tmp_path)


def test_an_endless_file_is_refused() -> None:
    with pytest.raises(ValueError, match="larger than 64 MiB"):
        load_template(SpeechTemplate, Path("/dev/zero"))


def test_a_repeated_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "preset.json").write_text('{"reasoning": "none", "tools": "hermes", "reasoning": "think"}')
    with pytest.raises(ValueError, match=r"preset\.json: .*'reasoning' must be given only once"):
        load_preset(None, tmp_path)


def test_an_unknown_preset_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bagpiper-tts"):
        load_preset("bagpiper", tmp_path)


def options(*arguments: str) -> OwnOptions:
    return OwnOptions.of(build_parser().parse_args(["--model-path", str(MODEL), *arguments]))


def test_the_options_choose_the_preset_and_replace_a_template(tmp_path: Path) -> None:
    template = tmp_path / "speech.json"
    template.write_text(json.dumps(SPEECH))
    assert options().preset == load_preset(None, MODEL)
    assert options("--preset", "default").preset == load_preset("default")
    changed = options("--speech-template", str(template)).preset
    assert changed.speech.messages[0].content == "{input}"
    assert changed.transcription == load_preset(None, MODEL).transcription


@pytest.mark.parametrize(
    ("parser", "reasoning"),
    [("auto", "lone"), ("none", "none"), ("qwen3", "think"), ("deepseek-r1", "lone"), ("think", "think")],
)
def test_the_option_for_reasoning_overrides_the_preset(parser: str, reasoning: str) -> None:
    assert options("--preset", "bagpiper-sft", "--reasoning-parser", parser).preset.reasoning == reasoning


def test_only_bagpipers_presets_separate_thinking() -> None:
    assert load_preset("bagpiper-tts").reasoning == load_preset("bagpiper-sft").reasoning == "lone"
    assert load_preset("default").reasoning == options().preset.reasoning == "none"


def test_an_unknown_reasoning_parser_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        options("--reasoning-parser", "gpt-oss")
    complaint = capsys.readouterr().err
    assert "--reasoning-parser" in complaint
    assert "'gpt-oss'" in complaint
    assert "qwen3-thinking" in complaint


# Voices


def with_voices(tmp_path: Path, base: str, voices: Any) -> Preset:
    file = tmp_path / "voices.json"
    file.write_text(json.dumps(voices))
    arguments = build_parser().parse_args(["--model-path", str(tmp_path), "--preset", base, "--voices", str(file)])
    return OwnOptions.of(arguments).preset


def test_a_file_of_voices_adds_to_the_presets_own(tmp_path: Path) -> None:
    offered = with_voices(tmp_path, "bagpiper-tts", {"pirate": "An old pirate", "alloy": "Another one"}).offered_voices
    assert offered["pirate"] == "An old pirate"
    assert offered["alloy"] == "Another one"
    assert "nova" in offered


def test_voices_are_refused_if_the_model_has_only_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--voices: .* one voice"):
        with_voices(tmp_path, "default", {"pirate": "An old pirate"})


@pytest.mark.parametrize("voices", [{"pirate": " "}, {"": "A voice"}, {"pirate": 5}])
def test_an_invalid_file_of_voices_is_refused(voices: Any, tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        with_voices(tmp_path, "bagpiper-tts", voices)


def test_a_model_with_one_voice_offers_that_voice() -> None:
    assert [*load_preset("default").offered_voices] == ["default"]
