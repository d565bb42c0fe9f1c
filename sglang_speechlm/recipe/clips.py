"""What the demonstration's model is taught to hear: words, questions, sentences, tones, noise and silence."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import soxr
from tqdm import tqdm

from sglang_speechlm.audio.mel import mel_features
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.recipe import corpus
from sglang_speechlm.recipe.requests import ABOUT_A_CLIP, SYSTEMS, TRANSCRIBE, Asked
from sglang_speechlm.recipe.speech import load_speech
from sglang_speechlm.recipe.synthesis import RATE, VOICE, VOICES

Samples = npt.NDArray[np.float32]
Mel = npt.NDArray[np.float32]
_VARIANTS = {VOICE: 6}
_OTHER_VARIANTS = 2
_SOUND_VARIANTS = 150
_SENTENCES = 1000


class Clips:
    """Clips as mel frames, each with the turns that may be had about it."""

    def __init__(self, folder: Path, config: SpeechLMConfig, seed: int) -> None:
        self._random = Random(seed)
        self._questions = corpus.fixed_answers()
        noise = np.random.default_rng(seed)
        heard: list[tuple[str, Samples]] = []
        for voice in VOICES:
            for utterance in load_speech(folder / f"heard-{voice}.npz"):
                count = _VARIANTS.get(voice, _OTHER_VARIANTS)
                heard += [(utterance.text, varied(utterance.sound, noise)) for _ in range(count)]
        for utterance in load_speech(folder / "spoken.npz")[-_SENTENCES:]:
            heard.append((utterance.text, varied(utterance.sound, noise)))
        self._speech = [(text, mel_features(sound, config)) for text, sound in tqdm(heard, desc="Clips", unit="clip")]
        self._sounds = [
            (kind, mel_features(make(noise), config))
            for kind, make in SOUND_MAKERS.items()
            for _ in range(_SOUND_VARIANTS)
        ]

    def any(self) -> tuple[Asked, Mel, bool]:
        """A turn with its clip, and whether the user's text stands before the clip."""
        random = self._random
        kind, mel = random.choice(self._sounds if random.random() < 0.2 else self._speech)
        system = random.choice(SYSTEMS) if random.random() < 0.4 else ""
        first = random.random() < 0.3
        if kind in corpus.SOUNDS:
            return Asked(system, random.choice(ABOUT_A_CLIP), corpus.named(kind)), mel, first
        is_sentence = " " in kind
        if kind in self._questions and random.random() < 0.7:
            return Asked(system, "", self._questions[kind]), mel, False
        if is_sentence or random.random() < 0.2:
            return Asked("", TRANSCRIBE, kind), mel, False
        return Asked(system, random.choice(ABOUT_A_CLIP), corpus.named(kind)), mel, first


def varied(sound: Samples, random: np.random.Generator) -> Samples:
    """A little faster or slower, with silence around it and some noise in it."""
    speed = random.uniform(0.92, 1.08)
    changed = soxr.resample(sound, RATE * speed, RATE)
    padded = np.pad(changed, random.integers(0, RATE // 3, 2))
    return (padded + random.normal(0, 10 ** random.uniform(-5, -2.5), len(padded))).astype(np.float32)


def _tone(random: np.random.Generator) -> Samples:
    time = np.arange(int(RATE * random.uniform(0.4, 3.0))) / RATE
    pitch = np.exp(random.uniform(np.log(150), np.log(4000)))
    harmonics = random.integers(1, 4)
    sound = sum(np.sin(2 * np.pi * pitch * k * time) / k**2 for k in range(1, harmonics + 1) if pitch * k < RATE / 2)
    return varied(np.asarray(0.3 * sound, np.float32), random)


def _noise(random: np.random.Generator) -> Samples:
    white = random.normal(0, 0.1, int(RATE * random.uniform(0.4, 3.0)))
    width = random.integers(1, 12)
    return np.convolve(white, np.ones(width) / width, "same").astype(np.float32)


def _silence(random: np.random.Generator) -> Samples:
    return np.zeros(int(RATE * random.uniform(0.4, 3.0)), np.float32)


SOUND_MAKERS = {"tone": _tone, "noise": _noise, "silence": _silence}
