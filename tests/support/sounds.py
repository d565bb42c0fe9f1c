"""Tones, and what is heard of them."""

from typing import Any

import numpy as np

from sglang_speechlm.audio import Clip

RATE = 16_000


def tone(seconds: float, rate: int = RATE, hertz: float = 440.0, level: float = 0.5) -> Any:
    """Return a sine: float32 [n]."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def loudest_hertz(clip: Clip) -> float:
    """Return the loudest frequency of a clip in Hz."""
    spectrum = np.abs(np.fft.rfft(clip.samples * np.hanning(len(clip.samples))))
    return float(np.argmax(spectrum)) * clip.sample_rate / len(clip.samples)
