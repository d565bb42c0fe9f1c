"""Sound at another speed: its duration, its pitch, and that pieces give the same result as the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

import sglang_speechlm
from sglang_speechlm.codec.tempo import Tempo

RATE = 16_000
PITCH = 440.0
SECONDS = 3
SPEEDS = [0.25, 0.4, 0.8, 1.1, 1.5, 2.0, 2.5, 4.0]


def tone() -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * PITCH * np.arange(SECONDS * RATE) / RATE)).astype(np.float32)


def spoken() -> np.ndarray:
    samples, rate = soundfile.read(Path(sglang_speechlm.__file__).parent / "demo" / "question.wav", dtype="float32")
    assert rate == RATE
    return np.asarray(samples)


def stretched(samples: np.ndarray, speed: float, size: int) -> np.ndarray:
    tempo = Tempo(RATE, speed)
    pieces = [tempo.push(samples[at : at + size]) for at in range(0, len(samples), size)]
    return np.concatenate([*pieces, tempo.flush()])


def pitch(samples: np.ndarray) -> float:
    middle = samples[len(samples) // 5 : -len(samples) // 5]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 8 * len(middle)))
    return float(spectrum.argmax()) * RATE / (8 * len(middle))


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_tone_keeps_its_pitch_and_changes_its_length(speed: float) -> None:
    sound = stretched(tone(), speed, RATE // 10)
    assert len(sound) == pytest.approx(SECONDS * RATE / speed, rel=0.001)
    assert pitch(sound) == pytest.approx(PITCH, rel=0.01)
    assert np.abs(sound).max() == pytest.approx(0.5, rel=0.05)


@pytest.mark.parametrize("size", [37, 320, 1_600, 12_800])
@pytest.mark.parametrize("speed", [0.25, 0.9, 1.5, 4.0])
def test_speech_in_pieces_equals_the_whole(speed: float, size: int) -> None:
    samples = spoken()[: 2 * RATE]
    np.testing.assert_array_equal(stretched(samples, speed, size), stretched(samples, speed, len(samples)))


@pytest.mark.parametrize("size", [0, 1, 160, 320, 1_600, 5_000])
@pytest.mark.parametrize("speed", [0.25, 1.5, 4.0])
def test_the_shortest_sound_has_the_right_length(speed: float, size: int) -> None:
    assert len(stretched(tone()[:size], speed, 320)) == round(size / speed)
