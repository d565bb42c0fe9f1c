"""Mel frames: their number, their values, and their independence of everything else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.audio_utils import mel_filter_bank

from sglang_speechlm.audio import AudioError, content_hash, mel_features
from sglang_speechlm.config import SpeechLMConfig

RATE = 16_000
FRONTENDS = ["bagpiper", "espnet", "fork"]


def config(frontend: Any, num_mel_bins: int = 128) -> SpeechLMConfig:
    tiny = {"encoder_layers": 1, "d_model": 16, "encoder_attention_heads": 2, "encoder_ffn_dim": 16, "output_dim": 8}
    return SpeechLMConfig(
        audio_config={**tiny, "num_mel_bins": num_mel_bins}, adaptor_input_dim=8, audio_frontend=frontend
    )


CONFIGS = {frontend: config(frontend) for frontend in FRONTENDS}


def noise(n: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0.05, 0.1, n).astype(np.float32)


def plain_mel(samples: Any, frontend: str, num_mel_bins: int) -> Any:
    """Compute mel frames by a plain short-time Fourier transform in float64."""
    wave = samples.astype(np.float64)
    n = len(wave)
    if frontend != "fork":
        wave = (wave - wave.mean()) / np.sqrt(wave.var() + 1e-7)
    padded_to = {"bagpiper": n, "espnet": 30 * RATE, "fork": -(-n // 160) * 160}[frontend]
    wave = np.pad(np.pad(wave, (0, padded_to - n)), 200, mode="reflect")
    count = padded_to // 160
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    windows = np.stack([wave[160 * k : 160 * k + 400] * window for k in range(count)])
    power = np.abs(np.fft.rfft(windows)) ** 2
    filters = mel_filter_bank(201, num_mel_bins, 0.0, 8000.0, RATE, norm="slaney", mel_scale="slaney")
    log = np.log10(np.maximum(power @ filters, 1e-10)).T
    log = (np.maximum(log, log.max() - 8.0) + 4.0) / 4.0
    return log[:, : n // 160 if frontend == "bagpiper" else -(-n // 160)]


@pytest.mark.parametrize("frontend", FRONTENDS)
@pytest.mark.parametrize("n", [201, 320, 1601, 33_333])
def test_features_equal_a_plain_transform(frontend: str, n: int) -> None:
    samples = noise(n)
    mel = mel_features(samples, CONFIGS[frontend])
    assert mel.dtype == np.float32
    np.testing.assert_allclose(mel, plain_mel(samples, frontend, 128), atol=2e-4)


def test_the_checkpoint_sets_the_number_of_bins() -> None:
    mel = mel_features(noise(1600), config("bagpiper", num_mel_bins=80))
    np.testing.assert_allclose(mel, plain_mel(noise(1600), "bagpiper", 80), atol=2e-4)


@pytest.mark.parametrize("frontend", FRONTENDS)
@settings(max_examples=20)
@given(n=st.integers(201, 20_000))
def test_number_of_frames_is_exact(frontend: str, n: int) -> None:
    frames = n // 160 if frontend == "bagpiper" else -(-n // 160)
    assert mel_features(noise(n), CONFIGS[frontend]).shape == (128, frames)


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_thirty_seconds_are_three_thousand_frames(frontend: str) -> None:
    assert mel_features(noise(30 * RATE), CONFIGS[frontend]).shape == (128, 3000)


@pytest.mark.parametrize(("frontend", "shortest"), [("bagpiper", 201), ("espnet", 1), ("fork", 161)])
def test_the_shortest_clip_that_gives_a_frame(frontend: str, shortest: int) -> None:
    mel = mel_features(noise(shortest), CONFIGS[frontend])
    assert mel.shape[1] >= 1
    assert np.isfinite(mel).all()
    with pytest.raises(AudioError, match=f"of {shortest - 1} samples .* is too short; at least {shortest} "):
        mel_features(noise(shortest - 1), CONFIGS[frontend])


def test_a_clip_beyond_thirty_seconds_is_refused() -> None:
    with pytest.raises(AudioError, match="limit is 30 s"):
        mel_features(noise(30 * RATE + 1), CONFIGS["bagpiper"])


@pytest.mark.parametrize("frontend", FRONTENDS)
def test_features_do_not_depend_on_earlier_clips(frontend: str) -> None:
    alone = mel_features(noise(5000), CONFIGS[frontend])
    mel_features(100 * noise(40_000, seed=1), CONFIGS[frontend])
    np.testing.assert_array_equal(mel_features(noise(5000), CONFIGS[frontend]), alone)


@pytest.mark.parametrize("frontend", FRONTENDS)
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e6])
def test_features_of_silence_and_extremes_are_finite(frontend: str, scale: float) -> None:
    samples = (scale * np.sign(noise(2000))).astype(np.float32)
    assert np.isfinite(mel_features(samples, CONFIGS[frontend])).all()


@pytest.mark.parametrize("frontend", ["bagpiper", "espnet"])
def test_normalised_features_do_not_depend_on_loudness(frontend: str) -> None:
    np.testing.assert_allclose(
        mel_features(noise(8000), CONFIGS[frontend]),
        mel_features(10 * noise(8000) + 0.5, CONFIGS[frontend]),
        atol=1e-3,
    )


def test_samples_are_not_modified() -> None:
    samples = noise(5000)
    mel_features(samples, CONFIGS["bagpiper"])
    np.testing.assert_array_equal(samples, noise(5000))


def test_the_hash_depends_on_content_and_shape() -> None:
    mel = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert content_hash(mel) == content_hash(np.asfortranarray(mel)) == 15472836223332470661
    assert content_hash(mel) != content_hash(mel.reshape(4, 3))
    assert content_hash(mel) != content_hash(np.nextafter(mel, 99))
    assert 0 <= content_hash(mel) < 2**64
