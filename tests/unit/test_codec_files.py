"""Every format of an answer's sound, read by FFmpeg's libraries."""

import io
from typing import get_args

import av
import numpy as np
import pytest

from sglang_speechlm.codec.files import FileFormat, FormatName, SoundFormat, encode

RATE = 16_000
TONE_HZ = 440
TONE = (np.sin(2 * np.pi * TONE_HZ * np.arange(RATE) / RATE) / 4).astype(np.float32)


@pytest.mark.parametrize("name", get_args(FileFormat))
def test_a_file_holds_the_sound_at_its_rate(name: FormatName) -> None:
    with av.open(io.BytesIO(encode(TONE, SoundFormat(name, RATE)))) as file:
        mono = av.AudioResampler("fltp", "mono", RATE)
        frames = [part.to_ndarray()[0] for frame in file.decode(audio=0) for part in mono.resample(frame)]
        (stream,) = file.streams
        assert stream.rate == (48_000 if name == "opus" else RATE)  # Opus is always decoded at 48 kHz
    samples = np.concatenate(frames)
    assert len(samples) == pytest.approx(len(TONE), abs=0.15 * RATE)
    loudest = np.abs(np.fft.rfft(samples)).argmax() * RATE / len(samples)
    assert loudest == pytest.approx(TONE_HZ, rel=0.01)


@pytest.mark.parametrize("name", get_args(FormatName))
def test_every_format_has_a_media_type(name: FormatName) -> None:
    assert SoundFormat(name, RATE).media_type.startswith("audio/")
