"""What the demonstration's model is taught to hear: words, questions, sentences, tones, noise and silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from sglang_speechlm.audio.mel import mel_features
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.demo.recipe import corpus
from sglang_speechlm.demo.recipe.draws import Draws
from sglang_speechlm.demo.recipe.requests import ABOUT_A_CLIP, SYSTEMS, TRANSCRIBE, Asked
from sglang_speechlm.demo.recipe.speech import load_speech
from sglang_speechlm.demo.recipe.synthesis import RATE, VOICE, VOICES
from sglang_speechlm.demo.recipe.words import NAMEABLE

Samples = npt.NDArray[np.float32]
Mel = npt.NDArray[np.float32]
_SOUNDS = 0.2
_SENTENCES = 0.2
_OTHER_VOICES = 0.4
_TRANSCRIBED = 0.25
"""Shares: of tones, noise and silence; of sentences in speech; of other voices, and of what is written down, in words
and questions."""


class Clips:
    """Clips as mel frames, no two the same, each with the turns that may be had about it."""

    def __init__(self, folder: Path, config: SpeechLMConfig, draws: Draws) -> None:
        self._config = config
        self._random, self._noise = draws.choices, draws.numbers
        self._questions = corpus.fixed_answers()
        self._sentences = {spoken.text: spoken for spoken in load_speech(folder / "spoken.npz")}
        self._voices = {
            voice: {spoken.text: spoken for spoken in load_speech(folder / f"heard-{voice}.npz")} for voice in VOICES
        }
        self._draws = [list(SOUND_MAKERS), list(self._sentences), list(self._voices[VOICE])]
        self._reply = {**self._questions, **{word: corpus.named(word) for word in NAMEABLE}, **corpus.SOUNDS}
        self._answered = {reply: said for said, reply in self._reply.items()}

    def one(self) -> tuple[str, Mel]:
        """A clip, and what is said in it or what kind of sound it is."""
        sounds, sentences, words = self._draws
        speech = sentences if self._random.random() < _SENTENCES else words
        said = self._random.choice(sounds if self._random.random() < _SOUNDS else speech)
        return said, self._clip(said)

    def any(self) -> tuple[Asked, str, Mel, bool]:
        """A turn, what :meth:`one` says of its clip, the clip, and whether the user's text stands before the clip."""
        said, mel = self.one()
        is_speech = said not in corpus.SOUNDS
        if is_speech and (said in self._sentences or self._random.random() < _TRANSCRIBED):
            return Asked("", TRANSCRIBE, said), said, mel, False
        return self._about(said), said, mel, self._random.random() < 0.3

    def answered(self, reply: str) -> tuple[Asked, str, Mel] | None:
        """A turn whose clip is answered by ``reply``, as :meth:`any` gives it; None if no clip is."""
        said = self._answered.get(reply)
        return None if said is None else (self._about(said), said, self._clip(said))

    def _about(self, said: str) -> Asked:
        user = "" if said in self._questions else self._random.choice(ABOUT_A_CLIP)
        return Asked(self._random.choice(SYSTEMS) if self._random.random() < 0.4 else "", user, self._reply[said])

    def _clip(self, said: str) -> Mel:
        if said in SOUND_MAKERS:
            return mel_features(SOUND_MAKERS[said](self._noise), self._config)
        others = [voice for voice in VOICES if voice != VOICE]
        voice = self._random.choice(others) if self._random.random() < _OTHER_VOICES else VOICE
        spoken = self._voices[voice].get(said) or self._sentences[said]
        return mel_features(varied(spoken.sound, self._noise), self._config)


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
