import io

import numpy as np
import soundfile

from sglang_speechlm.codec import encode_wav, to_pcm16


def test_samples_are_scaled_rounded_to_even_and_clipped() -> None:
    steps = np.array([0, 1, -1, 0.5, 1.5, -2.5, 32767, 32768, 40000, -32768, -40000], dtype=np.float32)
    assert to_pcm16(steps / np.float32(32768)).tolist() == [0, 1, -1, 0, 2, -2, 32767, 32767, 32767, -32768, -32768]


def test_a_wav_holds_the_samples_of_the_streamed_pieces() -> None:
    samples = np.random.default_rng(0).normal(0, 0.5, 1000).astype(np.float32)
    held, rate = soundfile.read(io.BytesIO(encode_wav(samples, 16000)), dtype="int16")
    assert rate == 16000
    assert np.array_equal(held, np.concatenate([to_pcm16(samples[:333]), to_pcm16(samples[333:])]))


def test_a_wav_is_mono_16_bit_pcm() -> None:
    info = soundfile.info(io.BytesIO(encode_wav(np.zeros(320, dtype=np.float32), 24000)))
    assert (info.format, info.subtype, info.channels, info.samplerate, info.frames) == ("WAV", "PCM_16", 1, 24000, 320)
