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
_FP8 = ("q_proj.weight", "k_proj.weight", "v_proj.weight", "o_proj.weight", "up_proj.weight", "gate_proj.weight",
        "down_proj.weight")  # fmt: skip
"""Name suffixes of the backbone's matrices, whose size --quantization fp8 halves."""


def weight_bytes(config: SpeechLMConfig, ranks: int = 1, *, fp8: bool = False) -> int:
    """Return the size of one tensor-parallel rank's weights in bfloat16, or in fp8 where that is possible.

    The codec's weights, which another process has, do not count.
    """
    total = 0
    for name, shape in expected_tensors(config).items():
        if not name.startswith(CODEC_PREFIX):
            width = 1 if fp8 and name.startswith("model.layers.") and name.endswith(_FP8) else 2
            total += width * math.prod(shape) // (ranks if len(shape) > 1 and not name.startswith(_ON_EACH_RANK) else 1)
    return total


def position_bytes(config: SpeechLMConfig, ranks: int = 1) -> int:
    """Return the size of one position's KV cache on one rank in bfloat16; a rank has at least one head."""
    text = config.text_config
    return int(4 * text.num_hidden_layers * math.ceil(text.num_key_value_heads / ranks) * text.head_dim)


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
