"""Encoded files hold the sound and are the same however the sound is cut into pieces."""

import io

import av
import numpy as np
import pytest
from forked import Forked

from sglang_speechlm.codec.encoder import ENCODED_IN_PIECES, Encoder

TONE_HZ = 440
SECONDS = 1.5


def tone(rate: int) -> np.ndarray:
    samples = np.sin(2 * np.pi * TONE_HZ * np.arange(round(SECONDS * rate)) / rate) / 4
    return samples.astype(np.float32)


def encoded(name: str, rate: int, size: int) -> list[bytes]:
    encoder, samples = Encoder(name, rate), tone(rate)
    pieces = [encoder.push(samples[at : at + size]) for at in range(0, len(samples), size)]
    return [*pieces, encoder.flush()]


def decoded(data: bytes) -> tuple[np.ndarray, int]:
    with av.open(io.BytesIO(data)) as file:
        frames = []
        resampler = av.AudioResampler("fltp", "mono")
        for frame in file.decode(audio=0):
            frames += [part.to_ndarray() for part in resampler.resample(frame)]
            rate = frame.sample_rate
    return np.concatenate(frames, axis=1)[0], rate


@pytest.mark.parametrize("name", ENCODED_IN_PIECES)
@pytest.mark.parametrize("rate", [8_000, 16_000, 24_000, 48_000])
def test_a_file_holds_the_sound_and_does_not_depend_on_its_pieces(name: str, rate: int) -> None:
    pieces = encoded(name, rate, 2560)
    assert sum(map(bool, pieces[:-1])) > 2
    data = b"".join(pieces)
    assert data == b"".join(encoded(name, rate, rate * 10)) == b"".join(encoded(name, rate, 77))
    samples, found_rate = decoded(data)
    assert len(samples) / found_rate == pytest.approx(SECONDS, abs=0.2)
    spectrum = np.abs(np.fft.rfft(samples))
    assert spectrum.argmax() * found_rate / len(samples) == pytest.approx(TONE_HZ, rel=0.01)


@pytest.mark.parametrize("name", ENCODED_IN_PIECES)
def test_an_encoder_that_is_abandoned_does_not_corrupt_memory(name: str) -> None:
    # In a separate process, because glibc ends a process whose heap is corrupted.
    def abandon_encoders() -> None:
        for _ in range(30):
            Encoder(name, 24_000).push(np.zeros(24_000, np.float32))

    assert Forked(abandon_encoders).result().returncode == 0


def test_no_samples_give_no_bytes() -> None:
    assert Encoder("mp3", 24_000).push(np.empty(0, np.float32)) == b""
