"""The reference's mel frames and audio encoder."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import Reference
from reference.hearing import encode_clip, mel_frames
from reference.tiny import tiny_config, tiny_reference


def windows(n_window: int, n_window_infer: int) -> dict[str, Any]:
    audio_config = tiny_config().audio_config.to_dict()
    return {"audio_config": audio_config | {"n_window": n_window, "n_window_infer": n_window_infer}}


REFERENCES = {50: tiny_reference(**windows(50, 200)), 100: tiny_reference(**windows(100, 400))}


@pytest.fixture(scope="module")
def reference() -> Reference:
    return REFERENCES[50]


def noise(samples: int) -> np.ndarray:
    return np.random.default_rng(samples).standard_normal(samples).astype(np.float32) * 0.1


@pytest.mark.parametrize(("frontend", "frames"), [("bagpiper", 100), ("espnet", 101), ("fork", 101)])
def test_the_frontend_determines_whether_an_incomplete_hop_is_kept(frontend: str, frames: int) -> None:
    assert mel_frames(noise(16001), 128, frontend).shape == (128, frames)
    assert mel_frames(noise(16000), 128, frontend).shape == (128, 100)


@pytest.mark.parametrize("frontend", ["bagpiper", "espnet"])
def test_gain_and_offset_do_not_matter_to_a_normalised_frontend(frontend: str) -> None:
    clip = noise(16000)
    torch.testing.assert_close(
        mel_frames(clip * 3 + 0.1, 128, frontend), mel_frames(clip, 128, frontend), atol=1e-3, rtol=0
    )


def test_gain_matters_to_the_forks_frontend() -> None:
    clip = noise(16000)
    assert (mel_frames(clip * 3, 128, "fork") - mel_frames(clip, 128, "fork")).abs().mean() > 0.1


def test_a_clip_is_cut_to_thirty_seconds() -> None:
    clip = noise(31 * 16000)
    assert torch.equal(mel_frames(clip, 128, "bagpiper"), mel_frames(clip[: 30 * 16000], 128, "bagpiper"))


@settings(max_examples=30)
@given(st.sampled_from([50, 100]), st.integers(1, 700))
def test_the_number_of_outputs_follows_the_formula(n_window: int, frames: int) -> None:
    def conv(length: int) -> int:
        for _ in range(3):
            length = (length - 1) // 2 + 1
        return length

    chunk = 2 * n_window
    expected = frames // chunk * conv(chunk) + (conv(frames % chunk) if frames % chunk else 0)
    with torch.inference_mode():
        assert encode_clip(REFERENCES[n_window].encoder, torch.randn(128, frames)).shape == (expected, 48)


def test_ten_seconds_give_125_or_130_outputs() -> None:
    assert len(REFERENCES[100].hear(noise(160000))) == 125
    assert len(REFERENCES[50].hear(noise(160000))) == 130


@pytest.mark.parametrize("frames", [1, 99, 100, 101, 357, 400, 837])
def test_the_released_window_gives_the_outputs_of_transformers(reference: Reference, frames: int) -> None:
    mel = torch.randn(128, frames, generator=torch.Generator().manual_seed(frames))
    with torch.inference_mode():
        expected = reference.encoder(mel, feature_lens=torch.tensor([frames])).last_hidden_state
        torch.testing.assert_close(encode_clip(reference.encoder, mel), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_window", [50, 100])
def test_attention_ends_at_the_window(n_window: int) -> None:
    encoder = REFERENCES[n_window].encoder
    mel = torch.randn(128, 600, generator=torch.Generator().manual_seed(0))
    altered = mel.clone()
    altered[:, 400:] += 1
    with torch.inference_mode():
        before, after = encode_clip(encoder, mel), encode_clip(encoder, altered)
    first_window = {50: 52, 100: 50}[n_window]
    changed = (before - after).abs().amax(1) > 1e-6
    assert not changed[:first_window].any()
    assert changed[first_window:].all()
