"""The work folder of a recipe with one word, one question and one sentence."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from sglang_speechlm.demo.recipe.clips import Clips
from sglang_speechlm.demo.recipe.draws import Draws
from sglang_speechlm.demo.recipe.examples import Layout
from sglang_speechlm.demo.recipe.speech import save_speech
from sglang_speechlm.demo.recipe.synthesis import VOICES, Utterance
from sglang_speechlm.demo.recipe.vocabulary import new_config, write_tokenizer

WORD, QUESTION, SENTENCE = "bird", "What is the capital of France?", "The bird sits near the bridge."


def utterance(text: str) -> Utterance:
    samples = np.random.default_rng(len(text)).integers(-3000, 3000, 500 * len(text)).astype(np.int16)
    return Utterance(text, samples, [("pau", 1.0)], [-1])


def tiny_clips(folder: Path, draws: Draws) -> Clips:
    save_speech(folder / "spoken.npz", [utterance(SENTENCE)])
    for voice in VOICES:
        save_speech(folder / f"heard-{voice}.npz", [utterance(WORD), utterance(QUESTION)])
    return Clips(folder, new_config(), draws)


def tiny_layout(folder: Path) -> Layout:
    config = new_config()
    tokenizer = write_tokenizer(folder, config, [WORD, QUESTION, SENTENCE] * 10)
    return Layout(config, tokenizer, Tokenizer.from_file(str(folder / "tokenizer.json")), 3)
