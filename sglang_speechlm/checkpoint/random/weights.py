"""Random weights whose greedy answers find errors as well as a trained model's.

Every id depends on the prompt, on all streams of earlier frames and on the stream embeddings; the best logit exceeds
the second by far more than float32 rounding; answers end.
"""

from __future__ import annotations

import math
import zlib

import torch

from sglang_speechlm.checkpoint.random.spec import CheckpointSpec
from sglang_speechlm.config import SpeechLMConfig

_QK_NORM = 1.6
"""The standard deviation of attention logits is about its square: few positions are attended to, so the context does
not average out."""
_STREAM_EMBEDDING = 0.5
_GAIN = {
    "self_attn.o_proj": 1.5,
    "mlp.down_proj": 3.0,
    # A clip must outweigh the position embedding that is added after the convolutions.
    "audio_tower.conv": 2.5,
    "adaptor": 2.0,
}


def random_tensor(name: str, shape: tuple[int, ...], spec: CheckpointSpec, config: SpeechLMConfig) -> torch.Tensor:
    """Return the tensor ``name``; it depends on the arguments only."""
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
