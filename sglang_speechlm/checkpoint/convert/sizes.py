"""The served config, derived from the tensors' shapes and a few other facts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import XcodecConfig

from sglang_speechlm.checkpoint.convert.settings import ConversionSettings
from sglang_speechlm.checkpoint.convert.train_config import TrainConfig
from sglang_speechlm.checkpoint.tensors import AUDIO_TOWER_PREFIX, CODEC_PREFIX
from sglang_speechlm.config import MODEL_TYPES, SpeechLMConfig
from sglang_speechlm.config.files import CheckpointError, read_json, shown

_TEXT_BEGIN = 256
_QWEN3 = {"rope_theta": 1_000_000.0, "rms_norm_eps": 1e-6, "max_position_embeddings": 40960}
_QWEN3_OMNI_HEAD_DIM = 64

Shapes = Mapping[str, tuple[int, ...]]


def served_config(
    shapes: Shapes,
    train_config: TrainConfig,
    tokenizer: Path | None,
    settings: ConversionSettings,
    dtype: str,
    decoding: Mapping[str, Any],
) -> SpeechLMConfig:
    """Return the config of the served directory.

    Args:
        shapes: the shape of every tensor, by name.
        train_config: the training config.
        tokenizer: the Qwen3 directory. Its config.json, if any, provides the backbone's values that shapes do not
            reveal (rope_theta, rms_norm_eps, max_position_embeddings); otherwise Qwen3's values are used.
        settings: all other settings.
        dtype: name of the tensors' dtype.
        decoding: the config's fields with decoding defaults.

    Raises:
        CheckpointError: if config.json is broken, or belongs to another kind of model.
        ValueError: if the backbone is a mixture of experts, a tensor that determines a size is missing, the head is
            missing though config.json has one, or sizes contradict each other.
    """
    _refuse_mixture(shapes)
    qwen = _qwen_config(tokenizer)
    if "lm_head.weight" not in shapes and qwen.get("tie_word_embeddings") is False:
        raise ValueError(
            f"the checkpoint has no tensor lm_head.weight, and tie_word_embeddings is false in {tokenizer}/config.json"
        )
    vocab_size, hidden_size = _shape(shapes, "model.embed_tokens.weight", 2)
    num_stream, _ = _shape(shapes, "stream_emb.weight", 2)
    layer_size = _codebook_size(shapes) + 1
    text_end = vocab_size - num_stream * layer_size
    text_size = qwen.get("vocab_size", text_end - _TEXT_BEGIN)
    if text_end - _TEXT_BEGIN != text_size:
        raise ValueError(
            f"model.embed_tokens.weight has {vocab_size} rows, but {_TEXT_BEGIN} reserved ids, {text_size} text ids "
            f"(vocab_size in {tokenizer}/config.json) and {num_stream} streams of {layer_size} ids make "
            f"{_TEXT_BEGIN + text_size + num_stream * layer_size}"
        )
    audio_config = _audio_config(shapes, settings) | {"dtype": dtype}
    codec_tag = {"xcodec_hf_model_tag": train_config.xcodec_hf_model_tag} if train_config.xcodec_hf_model_tag else {}
    options: dict[str, Any] = {"audio_frontend": settings.audio_frontend, "dtype": dtype, **codec_tag, **decoding}
    return SpeechLMConfig(
        text_config=_text_config(shapes, qwen) | {"hidden_size": hidden_size, "dtype": dtype},
        audio_config=audio_config,
        num_stream=num_stream,
        adaptor_input_dim=audio_config["output_dim"],
        vocab_size=vocab_size,
        codec_base_offset=text_end,
        codec_layer_size=layer_size,
        text_token_offset=_TEXT_BEGIN,
        text_token_end=text_end,
        tie_word_embeddings="lm_head.weight" not in shapes,
        **options,
    )


def _refuse_mixture(shapes: Shapes) -> None:
    """Refuse a mixture of experts.

    Raises:
        ValueError: if the backbone is one.
    """
    experts = next((name for name in shapes if ".mlp.experts." in name or name.endswith(".mlp.gate.weight")), None)
    if experts is not None:
        raise ValueError(f"the backbone is a mixture of experts ({experts}); allowed: a dense Qwen3 backbone")


def _qwen_config(tokenizer: Path | None) -> dict[str, Any]:
    if tokenizer is None:
        return {}
    file = tokenizer / "config.json"
    content = read_json(file) if file.exists() else {}
    model_type = content.get("model_type", "qwen3")
    if model_type in MODEL_TYPES:
        return {}  # a served directory used as tokenizer: its sizes are those of the whole vocabulary
    if model_type != "qwen3":
        raise CheckpointError(f"{file}: model_type is {shown(model_type)}; allowed: 'qwen3'")
    if content.get("rope_scaling"):
        raise CheckpointError(f"{file}: rope_scaling is {shown(content['rope_scaling'])}; allowed: null")
    rope = content.get("rope_parameters")
    found = content | ({"rope_theta": rope["rope_theta"]} if isinstance(rope, dict) and "rope_theta" in rope else {})
    for name in (*_QWEN3, "vocab_size"):
        value = found.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise CheckpointError(f"{file}: {name} is {shown(value)}; allowed: a number above 0")
    return found


def _text_config(shapes: Shapes, qwen: Mapping[str, Any]) -> dict[str, Any]:
    layer = "model.layers.0."
    (head_dim,) = _shape(shapes, layer + "self_attn.q_norm.weight", 1)
    return {
        "intermediate_size": _shape(shapes, layer + "mlp.gate_proj.weight", 2)[0],
        "num_hidden_layers": _count(shapes, "model.layers."),
        "num_attention_heads": _shape(shapes, layer + "self_attn.q_proj.weight", 2)[0] // head_dim,
        "num_key_value_heads": _shape(shapes, layer + "self_attn.k_proj.weight", 2)[0] // head_dim,
        "head_dim": head_dim,
        "tie_word_embeddings": "lm_head.weight" not in shapes,
        **{name: qwen.get(name, usual) for name, usual in _QWEN3.items()},
    }


def _audio_config(shapes: Shapes, settings: ConversionSettings) -> dict[str, Any]:
    def shape(name: str, dimensions: int = 2) -> tuple[int, ...]:
        return _shape(shapes, AUDIO_TOWER_PREFIX + name, dimensions)

    d_model, convolved = shape("conv_out.weight")
    channels = shape("conv2d1.weight", 4)[0]
    return {
        # Three convolutions of stride 2 reduce the mel bins to an eighth.
        "num_mel_bins": convolved // channels * 8,
        "encoder_layers": _count(shapes, AUDIO_TOWER_PREFIX + "layers."),
        "encoder_attention_heads": settings.audio_heads or d_model // _QWEN3_OMNI_HEAD_DIM,
        "encoder_ffn_dim": shape("layers.0.fc1.weight")[0],
        "d_model": d_model,
        "n_window": settings.n_window,
        "n_window_infer": settings.n_window_infer,
        "output_dim": shape("proj2.weight")[0],
        "downsample_hidden_size": channels,
        "conv_chunksize": 500,
        "max_source_positions": 1500,
    }


def _codebook_size(shapes: Shapes) -> int:
    embed = CODEC_PREFIX + "quantizer.quantizers.0.codebook.embed"
    return _shape(shapes, embed, 2)[0] if embed in shapes else XcodecConfig().codebook_size


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    """Return a tensor's shape, without zeros.

    Raises:
        ValueError: if there is no such tensor, or it has other dimensions.
    """
    if name not in shapes:
        raise ValueError(f"the checkpoint has no tensor {name}")
    shape = shapes[name]
    if len(shape) != dimensions or 0 in shape:
        raise ValueError(f"{name} is {list(shape)}; expected {dimensions} dimensions, none of them 0")
    return shape


def _count(shapes: Shapes, prefix: str) -> int:
    """Return the number of layers, which are numbered from 0."""
    numbers = {match[1] for name in shapes if (match := re.match(re.escape(prefix) + r"(\d{1,6})\.", name))}
    return len(numbers)
