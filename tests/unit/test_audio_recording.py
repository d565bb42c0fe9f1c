"""Recordings of any length are decoded as they are read, to the same samples as clips."""

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
import soundfile

from sglang_speechlm.audio import AudioError, Recording, decode_clip, recording
from sglang_speechlm.audio.windows import Window

RATE = 16_000


def speech(seconds: float, rate: int = RATE, hertz: float = 440.0) -> Any:
    """A tone with a pause of half a second every five seconds: float32 [n]."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.4 * np.sin(2 * np.pi * hertz * time) * (time % 5 < 4.5)).astype(np.float32)


def encode(samples: Any, rate: int = RATE, format: str = "WAV", subtype: str | None = None) -> bytes:
    out = io.BytesIO()
    channels = samples.shape[1] if samples.ndim == 2 else 1
    with soundfile.SoundFile(out, "w", rate, channels, subtype, format=format) as file:
        for start in range(0, len(samples), rate):  # libsndfile overflows its stack if it writes much Vorbis at once
            file.write(samples[start : start + rate])
    return out.getvalue()


def windows_of(heard: Recording, longest: float = 30, pause: float | None = None) -> list[Window]:
    return [window for window in heard.steps(longest, pause) if window is not None]


def joined(heard: Recording, longest: float = 30) -> Any:
    """The samples of a recording's windows, at their times; float32 [n]."""
    windows = windows_of(heard, longest)
    found = np.zeros(round(heard.seconds * RATE) + 2, np.float32)
    for window in windows:
        start = round(window.start * RATE)
        found[start : start + len(window.samples)] = window.samples
    return found


@pytest.mark.parametrize(("rate", "format"), [(16_000, "WAV"), (44_100, "WAV"), (48_000, "FLAC"), (16_000, "MP3")])
def test_a_short_recording_is_heard_as_a_clip(rate: int, format: str) -> None:
    data = encode(speech(12, rate), rate, format)
    (window,) = windows_of(Recording(data, None))
    np.testing.assert_array_equal(window.samples, decode_clip(data).samples)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "MP3", "OGG"])
def test_a_long_recording_is_heard_whole(format: str) -> None:
    samples = speech(80)
    heard = Recording(encode(samples, format=format), None)
    found = joined(heard)
    assert heard.seconds == pytest.approx(80, abs=0.2)
    assert heard.warnings == []
    np.testing.assert_allclose(found[: len(samples)][100:-2000], samples[100:-2000], atol=0.03)


def test_resampling_has_no_seams() -> None:
    data = encode(np.sin(2 * np.pi * 1000 * np.arange(44_100 * 95) / 44_100).astype(np.float32) * 0.5, 44_100)
    found = joined(Recording(data, None))[2000 : 94 * RATE]
    expected = 0.5 * np.sin(2 * np.pi * 1000 * (2000 + np.arange(len(found))) / RATE)
    np.testing.assert_allclose(found, expected, atol=2e-3)


def test_raw_samples_are_heard_whole() -> None:
    data = (speech(70, 24_000) * 32767).astype("<i2").tobytes()
    heard = Recording(data, "pcm16")
    assert len(windows_of(heard)) >= 3
    assert heard.seconds == pytest.approx(70)


def test_joined_files_are_heard_whole() -> None:
    heard = Recording(encode(speech(40)) + encode(speech(40, 44_100), 44_100) + encode(speech(10), format="FLAC"), None)
    found = joined(heard)
    assert heard.seconds == pytest.approx(90)
    assert np.abs(found[81 * RATE : 84 * RATE]).max() == pytest.approx(0.4, abs=0.01)


def test_a_damaged_recording_is_heard_up_to_the_damage() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 100 * RATE)
    data = bytearray(encode(noise, format="FLAC"))
    data[len(data) * 7 // 10 : len(data) * 7 // 10 + 4000] = bytes(4000)
    heard = Recording(bytes(data), None)
    assert windows_of(heard)[-1].end == pytest.approx(70, abs=1)
    (warning,) = heard.warnings
    assert "damaged or cut off after" in warning


def test_channels_that_cancel_each_other_out_later_are_not_mixed() -> None:
    left, right = speech(100), speech(100)
    right[50 * RATE :] *= -1
    heard = Recording(encode(np.stack([left, right], axis=1), format="FLAC"), None)
    found = joined(heard)
    np.testing.assert_allclose(found[61 * RATE : 64 * RATE], left[61 * RATE : 64 * RATE], atol=1e-4)
    assert heard.warnings == ["the channels cancel each other out: only channel 1 was heard"]


def test_bad_samples_are_refused_when_they_are_reached() -> None:
    samples = speech(100)
    samples[80 * RATE] = np.nan
    steps = Recording(encode(samples, subtype="FLOAT"), None).steps(30, None)
    next(steps)
    with pytest.raises(AudioError, match="NaN"):
        list(steps)


@pytest.mark.parametrize("data", [b"", b"no sound", encode(np.zeros(0))])
def test_data_that_is_not_a_recording_is_refused(data: bytes) -> None:
    with pytest.raises(AudioError):
        list(Recording(data, None).steps(30, None))


@pytest.mark.parametrize("pause", [None, 0.35])
@pytest.mark.parametrize("rate", [RATE, 44_100])
def test_a_recording_of_less_than_a_tenth_of_a_second_is_refused(rate: int, pause: float | None) -> None:
    for count in (1, rate // 10 - 1):
        with pytest.raises(AudioError, match=r"of 0\.0\d\d s is too short; at least 0\.1 s are needed"):
            list(Recording(encode(np.full(count, 0.1), rate), None).steps(30, pause))
    assert len(windows_of(Recording(encode(np.full(rate // 10, 0.1), rate), None), pause=pause)) == 1


def test_a_long_recording_is_heard_up_to_a_limit_in_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "MAX_SECONDS", 330)
    data = encode(np.tile((speech(60) * 32767).astype(np.int16), 6), format="FLAC")
    heard = Recording(data, None)
    tracemalloc.start()
    count = sum(window is not None for window in heard.steps(30, None))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count >= 11
    assert peak < 18e6, "all samples of five and a half minutes take 21 MB"
    assert heard.warnings == ["only the first 0.1 h of the recording were heard"]
