"""The recipe's first stage: synthesize everything that the model speaks or hears, as files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sglang_speechlm.demo.recipe import corpus
from sglang_speechlm.demo.recipe.synthesis import VOICE, VOICES, Utterance, synthesize
from sglang_speechlm.demo.recipe.words import NAMEABLE


def spoken_texts(train: Sequence[corpus.Sentence]) -> list[str]:
    """Return the texts that the model is trained to speak: sentences, fixed answers, and answers about clips."""
    fixed = [*corpus.fixed_answers().values(), *corpus.UNKNOWN, *corpus.SOUNDS.values()]
    return [*fixed, *(corpus.named(word) for word in NAMEABLE), *(sentence.text for sentence in train)]


def heard_texts() -> list[str]:
    """Return the texts that the model is trained to hear: single words, and the fixed questions."""
    return [*NAMEABLE, *corpus.fixed_answers()]


def write_speech(folder: Path, sentences: int) -> None:
    """Synthesize ``spoken``, ``held_out`` and, in each voice, ``heard-VOICE``; keep files that exist already."""
    train, held_out = corpus.split(sentences)
    wanted = {
        "spoken": (spoken_texts(train), VOICE),
        "held_out": ([sentence.text for sentence in held_out], VOICE),
        **{f"heard-{voice}": (heard_texts(), voice) for voice in VOICES},
    }
    for name, (texts, voice) in wanted.items():
        if not (folder / f"{name}.npz").exists():
            save_speech(folder / f"{name}.npz", list(synthesize(texts, voice)))


def load_speech(file: Path) -> list[Utterance]:
    """Load utterances that :func:`write_speech` wrote."""
    with np.load(file) as stored:
        samples = np.split(stored["samples"], stored["ends"][:-1])
        described = json.loads(str(stored["described"]))
    return [
        Utterance(row["text"], sound, row["phones"], row["words"])
        for row, sound in zip(described, samples, strict=True)
    ]


def save_speech(file: Path, utterances: Sequence[Utterance]) -> None:
    """Write utterances for :func:`load_speech`."""
    described = [
        {"text": utterance.text, "phones": utterance.phones, "words": utterance.word_of_phone}
        for utterance in utterances
    ]
    partial = file.with_suffix(".partial.npz")
    np.savez(
        partial,
        samples=np.concatenate([utterance.samples for utterance in utterances]),
        ends=np.cumsum([len(utterance.samples) for utterance in utterances]),
        described=json.dumps(described),
    )
    partial.replace(file)
