"""The minimum time of a step on a GPU: it must read the weights and the KV cache once."""

from __future__ import annotations

import math

from sglang_speechlm.checkpoint.tensors import expected_tensors
from sglang_speechlm.config import SpeechLMConfig

_READ_EVERY_STEP = ("model.layers.", "model.norm.", "lm_head.")


def weight_bytes(config: SpeechLMConfig, item_bytes: int = 2) -> int:
    """Return the bytes of the weights that every step reads: backbone and head; it reads few rows of the embedding."""
    shapes = expected_tensors(config)
    read = (math.prod(shape) for name, shape in shapes.items() if name.startswith(_READ_EVERY_STEP))
    return item_bytes * sum(read)


def cache_bytes(config: SpeechLMConfig, positions: int, item_bytes: int = 2) -> int:
    """Return the bytes of the KV cache of ``positions`` positions, over all rows."""
    text = config.text_config
    return 2 * item_bytes * positions * int(text.num_hidden_layers * text.num_key_value_heads * text.head_dim)


def floor_ms(config: SpeechLMConfig, *, rows: int, positions: int, bytes_per_second: float) -> float:
    """Return the minimum milliseconds for reading a step of ``rows`` rows, each ``positions`` long."""
    return 1000 * (weight_bytes(config) + cache_bytes(config, rows * positions)) / bytes_per_second


def nominal_bandwidth(memory_clock_khz: int, bus_bits: int) -> float:
    """Return a card's memory bandwidth in bytes per second: two transfers per clock, over the whole bus."""
    return 2 * 1000.0 * memory_clock_khz * bus_bits / 8
