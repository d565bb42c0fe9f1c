"""The memory that a checkpoint takes on GPUs: weights, KV cache, and what remains of a card for the latter."""

from __future__ import annotations

import math

from sglang_speechlm.checkpoint.tensors import AUDIO_TOWER_PREFIX, CODEC_PREFIX, expected_tensors
from sglang_speechlm.config import SpeechLMConfig

STATIC_SHARE = 0.85
"""Approximate share of a card's memory for weights and KV cache; the launcher computes it from the card."""

_GIGABYTE = 1e9
_GIBIBYTE = 1 << 30
_CARDS = (("24 GB", 24), ("40 GB", 40), ("48 GB", 48), ("80 GB", 80), ("96 GB", 96), ("141 GB", 141))
_ON_EACH_RANK = (AUDIO_TOWER_PREFIX, "adaptor.", "stream_emb.")


def is_quantized(name: str) -> bool:
    """Whether --quantization fp8 quantizes a tensor: the matrices of the backbone's layers, and nothing else."""
    return name.startswith("model.layers.") and name.endswith("_proj.weight")


def weight_bytes(config: SpeechLMConfig, ranks: int = 1, *, fp8: bool = False) -> int:
    """Return the size of one tensor-parallel rank's weights in bfloat16, or with the backbone's matrices in fp8.

    A matrix in fp8 has a float32 scale for each row. The codec's weights, which another process has, do not count.
    """
    total = 0
    for name, shape in expected_tensors(config).items():
        if not name.startswith(CODEC_PREFIX):
            size = math.prod(shape) + 4 * shape[0] if fp8 and is_quantized(name) else 2 * math.prod(shape)
            total += size // (ranks if len(shape) > 1 and not name.startswith(_ON_EACH_RANK) else 1)
    return total


def position_bytes(config: SpeechLMConfig, ranks: int = 1, *, item_bytes: int = 2) -> int:
    """Return the size of one position's KV cache on one rank, by default in bfloat16; a rank has at least one head."""
    text = config.text_config
    heads = math.ceil(text.num_key_value_heads / ranks)
    return int(2 * item_bytes * text.num_hidden_layers * heads * text.head_dim)


def cached_positions(config: SpeechLMConfig, total: float, ranks: int = 1, *, fp8: bool = False) -> int:
    """Return about how many positions of KV cache fit on cards of ``total`` bytes; negative if the weights do not."""
    return int((total * STATIC_SHARE - weight_bytes(config, ranks, fp8=fp8)) // position_bytes(config, ranks))


def describe_cards(config: SpeechLMConfig) -> list[str]:
    """Return lines about weights and positions by card; activations, CUDA graphs and the codec take the rest."""
    lines = [f"GPU memory: {position_bytes(config) / 1024:.0f} KiB of KV cache for each position (bfloat16)"]
    for name, fp8 in (("bfloat16", False), ("fp8 (--quantization fp8)", True)):
        fitting = [
            f"{card} {positions}"
            if (positions := cached_positions(config, size * _GIBIBYTE, fp8=fp8)) > 0
            else f"{card} none"
            for card, size in _CARDS
        ]
        weights = weight_bytes(config, fp8=fp8) / _GIGABYTE
        lines.append(f"  {name}: weights {weights:.2f} GB; positions by card: {', '.join(fitting)}")
    rule = f"  with {STATIC_SHARE:.2f} of the card's memory; a guided answer takes its positions twice while it speaks"
    return [*lines, rule]
