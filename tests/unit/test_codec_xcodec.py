from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from codec_tiny import HOP, NUM_STREAM, random_codes, tiny_codec, tiny_config, whole_decode, write_checkpoint
from safetensors.torch import load_file, save_file

from sglang_speechlm.codec.windows import Context, PiecePolicy, WindowPlanner
from sglang_speechlm.codec.worker.xcodec import CODEC_PREFIX, decoder_context, load_xcodec

CODES = random_codes(30)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path)


def test_the_checkpoints_own_tensors_decode_like_the_original_codec(checkpoint: Path) -> None:
    loaded = load_xcodec(checkpoint, tiny_config(xcodec_hf_model_tag="nobody/nowhere"), "cpu")
    expected = whole_decode(tiny_codec(), CODES)
    assert np.abs(expected).max() > 0.1
    assert np.array_equal(whole_decode(loaded, CODES), expected)


def test_tensors_may_be_sharded_and_stored_in_bf16(checkpoint: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    (checkpoint / "model.safetensors").unlink()
    names = sorted(tensors)
    save_file({name: tensors[name] for name in names[::2]}, checkpoint / "model-00001-of-00002.safetensors")
    save_file({name: tensors[name] for name in names[1::2]}, checkpoint / "model-00002-of-00002.safetensors")
    loaded = load_xcodec(checkpoint, tiny_config(), "cpu")
    assert {tensor.dtype for tensor in loaded.state_dict().values()} == {torch.float32}
    assert np.allclose(whole_decode(loaded, CODES), whole_decode(tiny_codec(), CODES), atol=0.05)


@pytest.mark.parametrize("relative", [True, False])
def test_without_own_tensors_the_codec_comes_from_the_named_directory(tmp_path: Path, relative: bool) -> None:
    tiny_codec().save_pretrained(tmp_path / "codecs" / "tiny")
    tag = "codecs/tiny" if relative else str(tmp_path / "codecs" / "tiny")
    loaded = load_xcodec(tmp_path, tiny_config(xcodec_hf_model_tag=tag), "cpu")
    assert np.array_equal(whole_decode(loaded, CODES), whole_decode(tiny_codec(), CODES))


def test_only_decoder_tensors_are_kept(checkpoint: Path) -> None:
    loaded = load_xcodec(checkpoint, tiny_config(), "cpu")
    assert {name for name, _ in loaded.named_children()} == {"quantizer", "fc2", "acoustic_decoder"}


def test_a_missing_codec_is_refused_by_the_name_of_the_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OSError, match="xcodec_hf_model_tag 'nobody/nowhere'"):
        load_xcodec(tmp_path, tiny_config(xcodec_hf_model_tag="nobody/nowhere"), "cpu")


@pytest.mark.parametrize(
    ("field", "value", "needed"),
    [
        ("xcodec_sample_rate", 24000, 16000),
        ("xcodec_hop_length", 320, HOP),
        ("num_stream", 8, NUM_STREAM),
        ("codec_layer_size", 1025, 17),
    ],
)
def test_a_codec_that_contradicts_the_config_is_refused(checkpoint: Path, field: str, value: int, needed: int) -> None:
    with pytest.raises(ValueError, match=rf"{field} is {value}, but the codec \(.*\) needs {needed}"):
        load_xcodec(checkpoint, tiny_config(**{field: value}), "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(CODEC_PREFIX + "fc2.bias"), r"lacks codec tensors: .*codec_model\.fc2\.bias$"),
        (
            lambda tensors: tensors.update({CODEC_PREFIX + "fc2.scale": torch.zeros(1)}),
            r"has unexpected codec tensors: .*codec_model\.fc2\.scale$",
        ),
        (
            lambda tensors: tensors.update({CODEC_PREFIX + "fc2.bias": torch.zeros(3)}),
            r"codec_model\.fc2\.bias has shape \[3\], but the codec's config needs \[16\]",
        ),
    ],
    ids=["missing", "unexpected", "misshapen"],
)
def test_a_wrong_tensor_is_refused_by_name(checkpoint: Path, change: Any, message: str) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load_xcodec(checkpoint, tiny_config(), "cpu")


def windowed_decode(model: Any, codes: Any, context: Context) -> Any:
    """Decode all windows of the planner one by one, in the model's precision."""
    planner = WindowPlanner(context, PiecePolicy(ramp=(2,), largest=6))
    planner.push(len(codes))
    planner.finish()
    pieces = []
    while window := planner.peek():
        planner.advance(window)
        piece = torch.from_numpy(codes[window.start : window.stop].T[None])
        samples = model.decode(piece).audio_values[0, 0]
        pieces.append(samples[(window.emit_start - window.start) * HOP : (window.emit_stop - window.start) * HOP])
    return torch.cat(pieces).numpy()


@torch.inference_mode()
def test_windows_need_the_computed_context_on_both_sides_to_equal_the_whole() -> None:
    model = tiny_codec().double()
    context = decoder_context(model)
    codes = random_codes(120)
    whole = model.decode(torch.from_numpy(codes.T[None])).audio_values[0, 0].numpy()
    assert np.abs(windowed_decode(model, codes, context) - whole).max() < 1e-12
    for too_small in (Context(context.left // 2, context.right), Context(context.left, context.right // 2)):
        assert np.abs(windowed_decode(model, codes, too_small) - whole).max() > 1e-6


def test_the_released_codec_needs_ten_codes_of_context() -> None:
    from transformers import XcodecConfig, XcodecModel

    with torch.device("meta"):
        assert decoder_context(XcodecModel(XcodecConfig())) == Context(10, 10)
