"""The audio tower against a plain recomputation from its tensors."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeAudioEncoderConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeAudioEncoder

from sglang_speechlm.audio import encoder_length
from sglang_speechlm.audio.encoder import AudioEncoder

WINDOWS = [(50, 800), (100, 400), (25, 130), (100, 200)]
HEADS = 2


def config(n_window: int = 100, n_window_infer: int = 400) -> Qwen3OmniMoeAudioEncoderConfig:
    return Qwen3OmniMoeAudioEncoderConfig(
        num_mel_bins=16,
        encoder_layers=2,
        encoder_attention_heads=HEADS,
        encoder_ffn_dim=24,
        d_model=16,
        n_window=n_window,
        n_window_infer=n_window_infer,
        output_dim=12,
        downsample_hidden_size=4,
    )


def encoder(n_window: int = 100, n_window_infer: int = 400) -> AudioEncoder:
    """A float64 encoder whose biases are random too, so that padding that leaks into results shows."""
    torch.manual_seed(0)
    module = AudioEncoder(config(n_window, n_window_infer)).double().eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def clip(frames: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(16, frames, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain_features(module: AudioEncoder, mel: torch.Tensor, n_window: int, n_window_infer: int) -> torch.Tensor:
    """Compute chunk by chunk, then with one full attention matrix that is masked outside the windows."""
    w: dict[str, Any] = {name.removeprefix("audio_tower."): value for name, value in module.state_dict().items()}

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, (16,), w[f"{name}.weight"], w[f"{name}.bias"])

    chunk = 2 * n_window
    pieces = []
    for part in mel.split(chunk, dim=1):
        kept = math.ceil(math.ceil(math.ceil(part.shape[1] / 2) / 2) / 2)
        x = functional.pad(part, (0, chunk - part.shape[1])) if mel.shape[1] > chunk else part
        x = x[None, None]
        for name in ("conv2d1", "conv2d2", "conv2d3"):
            x = functional.gelu(functional.conv2d(x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1))
        x = linear(x[0].permute(2, 0, 1).flatten(1), "conv_out")
        rates = torch.exp(-torch.arange(8) * math.log(10_000) / 7)
        angles = torch.arange(len(x))[:, None] * rates
        pieces.append((x + torch.cat([angles.sin(), angles.cos()], dim=1).double())[:kept])
    x = torch.cat(pieces)
    window = torch.arange(len(x)) // (math.ceil(chunk / 8) * (n_window_infer // chunk))
    outside = window[:, None] != window[None, :]
    for layer in ("layers.0", "layers.1"):
        h = norm(x, f"{layer}.self_attn_layer_norm")
        q, k, v = (
            linear(h, f"{layer}.self_attn.{name}").view(len(h), HEADS, -1).transpose(0, 1)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(outside, -torch.inf)
        x = x + linear((scores.softmax(-1) @ v).transpose(0, 1).flatten(1), f"{layer}.self_attn.out_proj")
        h = functional.gelu(linear(norm(x, f"{layer}.final_layer_norm"), f"{layer}.fc1"))
        x = x + linear(h, f"{layer}.fc2")
    return linear(functional.gelu(linear(norm(x, "ln_post"), "proj1")), "proj2")


@pytest.mark.parametrize(("n_window", "n_window_infer"), WINDOWS)
@pytest.mark.parametrize("frames", [1, 7, 50, 99, 100, 101, 200, 201, 350, 399, 400, 1000, 1111])
def test_features_equal_the_plain_computation(n_window: int, n_window_infer: int, frames: int) -> None:
    module = encoder(n_window, n_window_infer)
    features = module(clip(frames))
    assert features.shape == (encoder_length(frames, n_window), 12) == (module.length(frames), 12)
    torch.testing.assert_close(
        features, plain_features(module, clip(frames), n_window, n_window_infer), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("frames", [7, 100, 950])
def test_released_windows_give_the_features_of_transformers(frames: int) -> None:
    module = encoder(50, 800)
    expected = module.audio_tower(input_features=clip(frames), feature_lens=torch.tensor([frames])).last_hidden_state
    torch.testing.assert_close(module(clip(frames)), expected.detach(), atol=0, rtol=0)


def test_features_do_not_depend_on_other_clips() -> None:
    module = encoder()
    alone = module(clip(130))
    module(10 * clip(1000, seed=1))
    assert torch.equal(module(clip(130)), alone)


@pytest.mark.parametrize(("n_window", "n_window_infer", "window"), [(50, 800, 104), (100, 400, 50)])
def test_attention_is_limited_to_its_window(n_window: int, n_window_infer: int, window: int) -> None:
    key_counts: list[int] = []

    class AttentionWatch(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is functional.scaled_dot_product_attention:
                key_counts.append(args[1].shape[2])
            return func(*args, **(kwargs or {}))

    module = encoder(n_window, n_window_infer)
    with AttentionWatch():
        length = len(module(clip(3000)))
    assert max(key_counts) == window
    assert sum(key_counts) == 2 * length, "each of the two layers attends to each feature once"


def test_tensors_have_transformers_names() -> None:
    module = AudioEncoder(config())
    tower = Qwen3OmniMoeAudioEncoder(config())
    assert set(module.state_dict()) == {f"audio_tower.{name}" for name in tower.state_dict()}


def test_loaded_tensors_are_used() -> None:
    source, target = encoder(), AudioEncoder(config()).double()
    target.load_state_dict(source.state_dict())
    assert torch.equal(target(clip(300)), source(clip(300)))


def test_mel_is_converted_to_the_towers_dtype() -> None:
    module = encoder().to(torch.bfloat16)
    features = module(clip(300).float())
    assert features.dtype == torch.bfloat16
    assert not features.requires_grad


def test_window_shorter_than_a_chunk_is_refused() -> None:
    with pytest.raises(ValueError, match="n_window_infer 150 must be at least one chunk, 2 \\* n_window = 200"):
        AudioEncoder(config(100, 150))
