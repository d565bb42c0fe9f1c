"""The random checkpoints for the measurements."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

from sglang_speechlm.checkpoint import CheckpointSpec, build_checkpoint
from sglang_speechlm.config import SpeechLMConfig

WIDE = CheckpointSpec(
    hidden_size=512,
    intermediate_size=1536,
    layers=8,
    heads=8,
    kv_heads=4,
    head_dim=64,
    max_position_embeddings=16384,
    text_vocab_size=151936,
    codec_layer_size=1025,
    dtype="bfloat16",
)
"""For the comparison with the fork: 8 layers, hidden size 512, the full 160,392 ids, bfloat16."""
SMALL = CheckpointSpec(max_position_embeddings=16384)
"""A tiny model: most of a step's cost is outside the model."""
TINIEST = CheckpointSpec(
    hidden_size=32, intermediate_size=32, layers=1, heads=2, kv_heads=1, head_dim=16, max_position_embeddings=16384
)
"""A model whose steps take almost no time: nearly all of the cost is outside the model."""
FULL_CODEC = CheckpointSpec(codec_size="full", codec_layer_size=1025, max_position_embeddings=16384)
"""A small language model with the released model's Xcodec sizes, 161 M parameters."""


_SHELL = CheckpointSpec(hidden_size=16, text_vocab_size=151936, codec_layer_size=1025, codec_storage="directory")
"""The released vocabulary and codec layout with almost no weights."""


def released_sizes(directory: Path, codec_size: Literal["small", "full"] = "small") -> Path:
    """Return a directory with the released model's config, for servers that use dummy weights of its sizes.

    Args:
        codec_size: of the codec, which has random weights.
    """
    built(directory, replace(_SHELL, codec_size=codec_size))
    SpeechLMConfig(xcodec_hf_model_tag=_SHELL.config().xcodec_hf_model_tag, dtype="bfloat16").save_pretrained(directory)
    return directory


def built(directory: Path, spec: CheckpointSpec) -> Path:
    """Return the directory, after building its checkpoint if it does not exist."""
    if not (directory / "config.json").is_file():
        build_checkpoint(directory, spec=spec)
    return directory
