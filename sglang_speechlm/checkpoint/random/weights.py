"""Random weights whose greedy answers are as good as a trained model's for finding errors.

Every id depends on the prompt, on all streams of the frames before and on the stream embeddings; the best logit
stands clear of the second by far more than float32 rounds; answers end.
"""

from __future__ import annotations

import math
import zlib

import torch

from sglang_speechlm.checkpoint.random.spec import CheckpointSpec
from sglang_speechlm.config import SpeechLMConfig

_QK_NORM = 1.6
"""Attention logits have about its square as standard deviation: few positions are attended to, so that the
context does not average out."""
_STREAM_EMBEDDING = 0.5
_GAIN = {
    "self_attn.o_proj": 1.5,
    "mlp.down_proj": 3.0,
    # What was heard must outweigh the position embedding that is added behind the convolutions.
    "audio_tower.conv": 2.5,
    "adaptor": 2.0,
}


def random_tensor(name: str, shape: tuple[int, ...], spec: CheckpointSpec, config: SpeechLMConfig) -> torch.Tensor:
    """The tensor called ``name``; it depends on nothing but the arguments."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{spec.seed} {name}".encode()))
    values = torch.randn(shape, generator=generator)
    return _scaled(name, values, spec, config).to(getattr(torch, spec.dtype))


def _scaled(name: str, values: torch.Tensor, spec: CheckpointSpec, config: SpeechLMConfig) -> torch.Tensor:
    if name == "model.embed_tokens.weight":
        return values
    if name == "stream_emb.weight":
        return values * _STREAM_EMBEDDING
    if name == "lm_head.weight":
        rows = torch.nn.functional.normalize(values, dim=1) * spec.logit_scale
        rows[config.ids.eot] *= spec.eot_gain
        rows[config.ids.eos] *= spec.eos_gain
        return rows
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return _QK_NORM * (1 + 0.1 * values)
    if name.endswith("bias"):
        return 0.1 * values
    if values.ndim == 1:
        return 1 + 0.1 * values
    fan_in = values[0].numel()
    gain = next((gain for part, gain in _GAIN.items() if part in name), 1.0)
    return values * (gain / math.sqrt(fan_in))
