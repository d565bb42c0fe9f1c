"""Training examples match the layout that the server reads and the predictions that it needs."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from sglang_speechlm.codec.delay import Deinterleaver
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.demo.recipe import corpus
from sglang_speechlm.demo.recipe.examples import IGNORED, Layout, Voiced, collate, voiced
from sglang_speechlm.demo.recipe.requests import Exchange
from sglang_speechlm.demo.recipe.synthesis import Utterance
from sglang_speechlm.demo.recipe.vocabulary import new_config, write_tokenizer
from sglang_speechlm.demo.recipe.words import NAMEABLE
from sglang_speechlm.tokenizer import TextTokenizer

TEXT = "The green bird sits near the bridge."
EXCHANGE = Exchange("Be brief.", f"Say: {TEXT}", TEXT)
PHONES = ["b", "dh", "pau"]


@pytest.fixture(scope="module")
def config() -> SpeechLMConfig:
    return new_config()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, config: SpeechLMConfig) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, config, [TEXT, EXCHANGE.user, "The number is 347."] * 20)
    return folder


@pytest.fixture(scope="module")
def tokenizer(folder: Path, config: SpeechLMConfig) -> TextTokenizer:
    return TextTokenizer.from_pretrained(folder, config)


@pytest.fixture(scope="module")
def layout(folder: Path, config: SpeechLMConfig, tokenizer: TextTokenizer) -> Layout:
    return Layout(config, tokenizer, Tokenizer.from_file(str(folder / "tokenizer.json")), len(PHONES))


@pytest.fixture(scope="module")
def speech(config: SpeechLMConfig) -> Voiced:
    """Two frames for each of the seven words."""
    codes = np.random.default_rng(0).integers(config.ids.codebook_size, size=(14, config.num_stream))
    return Voiced(TEXT, codes, np.zeros(14, np.int64), np.repeat(np.arange(7), 2))


def test_frames_get_the_phone_and_the_word_of_their_middle() -> None:
    phones = [("pau", 0.02), ("dh", 0.06), ("pau", 0.08), ("b", 0.12), ("pau", 0.14)]
    utterance = Utterance("the bird", np.zeros(2240, np.int16), phones, [-1, 0, -1, 1, -1])
    labelled = voiced(utterance, np.zeros((7, 8), np.int64), PHONES)
    assert [PHONES[phone] for phone in labelled.phones] == ["pau", "dh", "dh", "pau", "b", "b", "pau"]
    assert labelled.words.tolist() == [0, 0, 0, 1, 1, 1, 2]


def test_a_transcript_has_only_text_ids(layout: Layout, config: SpeechLMConfig) -> None:
    transcripts = [layout.transcript_ids(text) for text in (*corpus.fixed_answers(), *NAMEABLE, TEXT)]
    assert all(transcripts)
    assert all(config.ids.text_begin <= index < config.ids.text_end for ids in transcripts for index in ids)


def test_digits_are_read_one_by_one(tokenizer: TextTokenizer) -> None:
    assert len(tokenizer.encode("347")) == 3
    assert tokenizer.decode(tokenizer.encode("Say: 347 größer")) == "Say: 347 größer"


def test_predictions_are_the_next_ids(layout: Layout, speech: Voiced, config: SpeechLMConfig) -> None:
    ids = config.ids
    example = layout.spoken(layout.turn(EXCHANGE), speech, unconditional=False)
    following = np.concatenate([example.frames[1:], np.zeros((1, ids.num_stream), np.int64)])
    following[-1, 0] = ids.eos
    is_text, is_frame = example.text != IGNORED, example.codes[:, 0] != IGNORED
    assert (example.text[is_text] == following[is_text, 0]).all()
    assert not (is_text & is_frame).any()
    streams = example.codes[is_frame]
    assert (streams[:-1] == following[is_frame][:-1]).all()
    assert streams[-1].tolist() == [ids.eos, *[IGNORED] * (ids.num_stream - 1)]
    assert (Deinterleaver(ids).push(streams[:-1]) == speech.codes).all()


def test_text_is_predicted_from_the_reply_on_without_forced_ids(layout: Layout, speech: Voiced) -> None:
    prompt = layout.turn(EXCHANGE)
    example = layout.spoken(prompt, speech, unconditional=False)
    first = np.flatnonzero(example.text != IGNORED)[0]
    assert first == len(prompt.ids)  # at <text>, which is itself forced


def test_a_frame_refers_to_the_tokens_of_its_word(layout: Layout, speech: Voiced, tokenizer: TextTokenizer) -> None:
    example = layout.spoken(layout.turn(EXCHANGE), speech, unconditional=False)
    token_ranges = example.word[example.codes[:, 0] != IGNORED]
    words = ["The", " green", " bird", " sits", " near", " the", " bridge"]
    for frame, word in enumerate(np.repeat(words, 2)):
        first, last = token_ranges[frame]
        assert tokenizer.decode(example.frames[first : last + 1, 0].tolist()) == word
    assert (example.frames[token_ranges[14:, 0], 0] == new_config().ids.eot).all()


def test_the_unconditional_example_has_pads_up_to_audio_and_then_the_same_frames(
    layout: Layout, speech: Voiced, config: SpeechLMConfig
) -> None:
    conditional_example = layout.spoken(layout.turn(EXCHANGE), speech, unconditional=False)
    unconditional_example = layout.spoken(layout.turn(EXCHANGE), speech, unconditional=True)
    at = int(np.flatnonzero(conditional_example.frames[:, 0] == config.ids.audio)[-1])
    assert not unconditional_example.frames[:at].any()
    assert (unconditional_example.frames[at:] == conditional_example.frames[at:]).all()
    assert (unconditional_example.codes == conditional_example.codes).all()
    assert (unconditional_example.text == IGNORED).all()
    assert (unconditional_example.word == IGNORED).all()


def test_shorter_examples_are_padded_at_their_end(layout: Layout, speech: Voiced) -> None:
    examples = [
        layout.written(layout.turn(EXCHANGE), "Yes."),
        layout.spoken(layout.turn(EXCHANGE), speech, unconditional=False),
    ]
    batch = collate(examples)
    assert batch.frames.shape == (2, len(examples[1]), 8)
    assert (batch.frames[0, : len(examples[0])].numpy() == examples[0].frames).all()
    assert (batch.text[0, len(examples[0]) :] == IGNORED).all()
