"""The clips for training the demonstration's model: words, questions, sentences, tones, noise and silence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import soxr

from sglang_speechlm.audio.mel import mel_features
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.demo.recipe import corpus
from sglang_speechlm.demo.recipe.draws import Draws
from sglang_speechlm.demo.recipe.requests import ABOUT_A_CLIP, SYSTEMS, TRANSCRIBE, Exchange
from sglang_speechlm.demo.recipe.speech import load_speech
from sglang_speechlm.demo.recipe.synthesis import RATE, VOICE, VOICES
from sglang_speechlm.demo.recipe.words import NAMEABLE

Samples = npt.NDArray[np.float32]
Mel = npt.NDArray[np.float32]
_SOUNDS = 0.2
_SENTENCES = 0.2
_OTHER_VOICES = 0.4
_TRANSCRIBED = 0.25
"""Shares of tones, noise and silence; of sentences among speech; and, among words and questions, of other voices and of
transcriptions."""


class Clips:
    """Clips as mel frames, no two the same, with exchanges about them."""

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
        self._answered = {reply: transcript for transcript, reply in self._reply.items()}

    def clip(self) -> tuple[str, Mel]:
        """Return a transcript, or the kind of a sound, and a clip of it."""
        sounds, sentences, words = self._draws
        speech = sentences if self._random.random() < _SENTENCES else words
        transcript = self._random.choice(sounds if self._random.random() < _SOUNDS else speech)
        return transcript, self._clip(transcript)

    def exchange(self) -> tuple[Exchange, str, Mel, bool]:
        """Return an exchange about a clip, the clip's transcript, the clip, and whether the user's text precedes it."""
        transcript, mel = self.clip()
        is_speech = transcript not in corpus.SOUNDS
        if is_speech and (transcript in self._sentences or self._random.random() < _TRANSCRIBED):
            return Exchange("", TRANSCRIBE, transcript), transcript, mel, False
        return self._about(transcript), transcript, mel, self._random.random() < 0.3

    def answered(self, reply: str) -> tuple[Exchange, str, Mel] | None:
        """Return an exchange about a clip with the answer ``reply``, as :meth:`exchange` does; None without one."""
        transcript = self._answered.get(reply)
        return None if transcript is None else (self._about(transcript), transcript, self._clip(transcript))

    def _about(self, transcript: str) -> Exchange:
        user = "" if transcript in self._questions else self._random.choice(ABOUT_A_CLIP)
        return Exchange(
            self._random.choice(SYSTEMS) if self._random.random() < 0.4 else "", user, self._reply[transcript]
        )

    def _clip(self, transcript: str) -> Mel:
        if transcript in SOUND_MAKERS:
            return mel_features(SOUND_MAKERS[transcript](self._noise), self._config)
        others = [voice for voice in VOICES if voice != VOICE]
        voice = self._random.choice(others) if self._random.random() < _OTHER_VOICES else VOICE
        spoken = self._voices[voice].get(transcript) or self._sentences[transcript]
        return mel_features(varied(spoken.sound, self._noise), self._config)


def varied(sound: Samples, random: np.random.Generator) -> Samples:
    """Return the sound slightly faster or slower, with silence around it and some noise."""
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
