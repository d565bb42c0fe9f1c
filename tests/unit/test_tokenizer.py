"""The offset tokenizer and the classes built on it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from sglang_speechlm.checkpoint.random.spec import CheckpointSpec
from sglang_speechlm.checkpoint.random.vocabulary import write_raw_tokenizer
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.tokenizer import TextTokenizer, offset_tokenizer, reserved_names
from sglang_speechlm.tokenizer import text as text_module

SPEC = CheckpointSpec()
CONFIG = SPEC.config()
IDS = CONFIG.ids
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NAMES = [*reserved_names(CONFIG)[:12], "<|unused_200|>", *SPECIAL]


@pytest.fixture(scope="module")
def raw_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("raw")
    write_raw_tokenizer(directory, SPEC.text_vocab_size - 60)
    return directory


@pytest.fixture(scope="module")
def raw(raw_directory: Path) -> Tokenizer:
    return Tokenizer.from_file(str(raw_directory / "tokenizer.json"))


@pytest.fixture(scope="module")
def served(raw_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_served(raw_directory, tmp_path_factory.mktemp("served"), CONFIG)


@pytest.fixture(scope="module")
def tokenizer(served: Path) -> TextTokenizer:
    return TextTokenizer.from_pretrained(served, CONFIG)


@pytest.fixture(scope="module")
def literal(served: Path) -> TextTokenizer:
    """A tokenizer that keeps the raw id 0, so that every text can be decoded again."""
    return TextTokenizer.from_pretrained(served, SpeechLMConfig(**{**CONFIG.to_dict(), "text_id_zero_is_pad": False}))


def write_served(raw_directory: Path, directory: Path, config: SpeechLMConfig) -> Path:
    for name, text in offset_tokenizer(raw_directory, config).items():
        (directory / name).write_text(text, encoding="utf-8")
    config.save_pretrained(directory)
    return directory


def write_changed(raw_directory: Path, directory: Path, **changes: Any) -> Path:
    content = json.loads((raw_directory / "tokenizer.json").read_text(encoding="utf-8"))
    (directory / "tokenizer.json").write_text(json.dumps(content | changes), encoding="utf-8")
    return directory


def test_ids_are_the_raw_ids_plus_the_offset(tokenizer: TextTokenizer, raw: Tokenizer) -> None:
    text = "What is the weather like today? 日本 Grüße"
    assert tokenizer.encode(text) == [index + 256 for index in raw.encode(text).ids]


@pytest.mark.parametrize("text", ["What is the weather?", "!", " 日本 ", "<|assistant|>a<|im_start|>", "", "\n\n"])
def test_names_may_be_encoded_as_in_sglang(text: str, tokenizer: TextTokenizer, served: Path) -> None:
    assert tokenizer.encode_with_names(text, 100) == AutoTokenizer.from_pretrained(served)(text)["input_ids"]
    assert tokenizer.encode("<|assistant|>") != tokenizer.encode_with_names("<|assistant|>", 100)


def test_a_text_that_takes_too_many_ids_is_not_encoded_completely(
    tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths_read: list[int] = []
    ids_of = text_module._ids_of

    def count_lengths(encoder: Tokenizer, text: str) -> list[int]:
        lengths_read.append(len(text))
        return ids_of(encoder, text)

    monkeypatch.setattr(text_module, "_ids_of", count_lengths)
    with pytest.raises(ValueError, match="a text of 90000 bytes is too long"):
        tokenizer.encode("7" * 90_000, 10_000)
    assert sum(lengths_read) < 90_000
    assert len(tokenizer.encode("7" * 15_000, 16_000)) <= 15_000


def test_too_many_ids_are_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ValueError, match="the context length is 10 tokens"):
        tokenizer.encode_with_names("a b c d e f g h i j k l", 10)


def test_raw_id_zero_is_pad_as_in_training(tokenizer: TextTokenizer, raw: Tokenizer) -> None:
    assert raw.encode("!").ids == [0]
    assert tokenizer.encode("!") == [IDS.pad]


def test_raw_id_zero_is_kept_if_the_config_says_so(literal: TextTokenizer) -> None:
    assert literal.encode("!") == [IDS.text_begin]


@given(pieces=st.lists(st.sampled_from(NAMES) | st.text(max_size=5), max_size=6))
def test_reserved_and_special_names_in_a_text_are_plain_text(
    literal: TextTokenizer, raw: Tokenizer, pieces: list[str]
) -> None:
    special = {raw.token_to_id(name) + IDS.text_begin for name in SPECIAL}
    encoded = literal.encode("".join(pieces))
    assert all(IDS.text_begin <= index < IDS.text_end and index not in special for index in encoded)


def test_added_tokens_that_are_not_special_are_encoded(tokenizer: TextTokenizer, raw: Tokenizer) -> None:
    assert tokenizer.encode("<think>") == [raw.token_to_id("<think>") + 256]
    assert tokenizer.decode(tokenizer.encode("<think>")) == "<think>"


@given(text=st.text(max_size=40))
def test_decoding_gives_the_normalised_text(literal: TextTokenizer, raw: Tokenizer, text: str) -> None:
    assert literal.decode(literal.encode(text)) == raw.normalizer.normalize_str(text)


def test_a_lone_surrogate_is_refused(tokenizer: TextTokenizer) -> None:
    with pytest.raises(ValueError, match="lone surrogate at character 1"):
        tokenizer.encode("a\ud800")


def test_decoding_drops_what_is_not_text(tokenizer: TextTokenizer, raw: Tokenizer) -> None:
    not_text = [IDS.bos, IDS.assistant, IDS.codec_begin, IDS.codec_end - 1, IDS.vocab_size, 10**9, -1, IDS.text_end - 1]
    not_text += [raw.token_to_id(name) + 256 for name in SPECIAL]
    interleaved = [
        index for pair in zip(not_text, [*tokenizer.encode("hello"), *[0] * 20], strict=False) for index in pair
    ]
    assert tokenizer.decode(interleaved) == "hello"


def test_an_incomplete_character_is_decoded_to_a_replacement(tokenizer: TextTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("a🦉")[:-1]) == "a\ufffd"


def test_a_stream_holds_back_an_incomplete_character(tokenizer: TextTokenizer) -> None:
    stream = tokenizer.stream()
    encoded = tokenizer.encode("🦉")
    assert len(encoded) == 4
    assert [stream.push([index]) for index in encoded] == ["", "", "", "🦉"]
    assert stream.flush() == ""


def test_flushing_a_stream_gives_a_replacement_for_an_incomplete_character(tokenizer: TextTokenizer) -> None:
    stream = tokenizer.stream()
    assert stream.push(tokenizer.encode("a🦉")[:-1]) == "a"
    assert stream.flush() == "\ufffd"


@given(ids=st.lists(st.integers(0, IDS.vocab_size), max_size=40), size=st.integers(1, 5))
def test_the_parts_of_a_stream_join_to_the_decoded_text(tokenizer: TextTokenizer, ids: list[int], size: int) -> None:
    stream = tokenizer.stream()
    parts = [stream.push(ids[start : start + size]) for start in range(0, len(ids), size)]
    assert "".join(parts) + stream.flush() == tokenizer.decode(ids)


@given(ids=st.lists(st.integers(0, IDS.vocab_size - 1), max_size=40))
def test_autotokenizer_decodes_the_same_ids_to_the_same_text(
    served: Path, tokenizer: TextTokenizer, ids: list[int]
) -> None:
    assert auto(served).decode(ids, skip_special_tokens=True) == tokenizer.decode(ids)


def test_autotokenizer_knows_the_reserved_names(served: Path) -> None:
    names = reserved_names(CONFIG)
    assert auto(served).convert_tokens_to_ids(names) == list(range(256))
    assert (auto(served).pad_token_id, auto(served).bos_token_id, auto(served).eos_token_id) == (0, 1, 2)


_AUTO: dict[Path, Any] = {}


def auto(directory: Path) -> Any:
    if directory not in _AUTO:
        _AUTO[directory] = AutoTokenizer.from_pretrained(directory)
    return _AUTO[directory]


def test_reserved_names_have_the_ids_in_the_config() -> None:
    config = SpeechLMConfig(**{**CONFIG.to_dict(), "eot_token_id": 40})
    names = reserved_names(config)
    assert (names[40], names[3], names[9], names[11], names[12]) == (
        "<|eot|>", "<|unused_3|>", "<|image|>", "<|toolcall|>", "<|unused_12|>",
    )  # fmt: skip
    assert len(set(names)) == 256


def test_added_tokens_of_a_vocabulary_of_qwen3s_size_are_offset(raw_directory: Path, tmp_path: Path) -> None:
    content = json.loads((raw_directory / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = content["model"]["vocab"]
    for token in content["added_tokens"]:
        vocabulary.pop(token["content"], None)
    vocabulary |= {f"filler{index}": index for index in range(len(vocabulary), 151643)}
    added = [{**token, "id": 151643 + index} for index, token in enumerate(content["added_tokens"])]
    source, target = tmp_path / "raw", tmp_path / "served"
    source.mkdir()
    target.mkdir()
    write_changed(raw_directory, source, added_tokens=added, model=content["model"] | {"vocab": vocabulary})
    served = write_served(source, target, SpeechLMConfig())
    assert auto(served).convert_tokens_to_ids("<|im_end|>") == 151645 + 256
    assert auto(served).decode([151646 + 256]) == "<think>"
    assert TextTokenizer.from_pretrained(served, SpeechLMConfig()).encode("<|im_end|><think>")[-1] == 151646 + 256


def test_a_tokenizer_with_raw_ids_is_refused(raw_directory: Path) -> None:
    with pytest.raises(ValueError, match=r"<\|pad\|> the id None; expected 0"):
        TextTokenizer.from_pretrained(raw_directory, CONFIG)
    assert not TextTokenizer.fits(raw_directory, CONFIG)


def test_a_directory_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no tokenizer\.json"):
        TextTokenizer.from_pretrained(tmp_path, CONFIG)


def test_an_offset_tokenizer_is_unchanged(served: Path) -> None:
    reoffset = json.loads(offset_tokenizer(served, CONFIG)["tokenizer.json"])
    assert reoffset == json.loads((served / "tokenizer.json").read_text(encoding="utf-8"))


def test_other_names_of_reserved_ids_are_replaced(served: Path, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    content = json.loads((served / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = {f"<{index}>" if index < 256 else name: index for name, index in content["model"]["vocab"].items()}
    added = [token for token in content["added_tokens"] if token["id"] >= 256]
    write_changed(served, tmp_path, added_tokens=added, model=content["model"] | {"vocab": vocabulary})
    assert not TextTokenizer.fits(tmp_path, CONFIG)
    for name, text in offset_tokenizer(tmp_path, CONFIG).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    assert TextTokenizer.fits(tmp_path, CONFIG)
    renamed = TextTokenizer.from_pretrained(tmp_path, CONFIG)
    assert renamed.encode("What is machine learning?") == tokenizer.encode("What is machine learning?")


def test_a_vocabulary_beyond_the_text_range_is_refused(raw_directory: Path) -> None:
    config = CheckpointSpec(text_vocab_size=300).config()
    with pytest.raises(ValueError, match="text_token_end 556"):
        offset_tokenizer(raw_directory, config)


def test_a_tokenizer_that_is_not_byte_level_bpe_is_refused(raw_directory: Path, tmp_path: Path) -> None:
    write_changed(raw_directory, tmp_path, decoder={"type": "WordPiece"})
    with pytest.raises(ValueError, match="byte-level BPE"):
        offset_tokenizer(tmp_path, CONFIG)


def test_a_post_processor_that_adds_ids_is_refused(raw_directory: Path, tmp_path: Path) -> None:
    write_changed(raw_directory, tmp_path, post_processor={"type": "TemplateProcessing"})
    with pytest.raises(ValueError, match="TemplateProcessing"):
        offset_tokenizer(tmp_path, CONFIG)
