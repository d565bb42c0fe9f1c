"""Norms and rotary positions on a CPU in fewer calls of torch: a step makes hundreds, and each of them costs time.

The results are SGLang's own, to the bit.
"""

from __future__ import annotations

from typing import Any

import torch
from sglang.kernels.fused_op import BaseFusedOp
from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding
from sglang.srt.platforms import current_platform
from torch.nn.functional import rms_norm


def register() -> None:
    """Make SGLang's modules use these functions on this package's platform."""
    for module, function in ((RMSNorm, normalize), (RotaryEmbedding, rotate)):
        BaseFusedOp.register_oot_forward(module, function, current_platform.get_dispatch_key_name())


def normalize(norm: Any, x: torch.Tensor, residual: torch.Tensor | None = None, *others: Any, **options: Any) -> Any:
    """Return the RMS norm of x [..., size], or of its sum with the residual, and that sum."""
    is_plain = norm.variance_size_override is None and norm.override_orig_dtype is None and not norm.fp32_residual
    if not is_plain or norm.cast_x_before_out_mul or _given(others, options):
        return norm.forward_native(x, residual, *others, **options)
    total = x.contiguous().float()
    if residual is not None:
        total = total + residual
    normalized = rms_norm(total, total.shape[-1:], norm.weight.float(), norm.variance_epsilon).to(x.dtype)
    return normalized if residual is None else (normalized, total.to(x.dtype))


def rotate(
    rotary: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor, *others: Any, **options: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return query [N, heads * head_size] and key [N, kv_heads * head_size], rotated together."""
    whole = rotary.is_neox_style and rotary.rotary_dim == rotary.head_size
    if not whole or _given(others, options):
        rotated: tuple[torch.Tensor, torch.Tensor] = rotary.forward_native(positions, query, key, *others, **options)
        return rotated
    rows, size = positions.numel(), rotary.head_size
    angles = rotary.cos_sin_cache.index_select(0, positions.flatten()).to(query.dtype)
    cosines, sines = angles.unsqueeze(1).chunk(2, dim=-1)
    first, second = torch.cat((query.view(rows, -1, size), key.view(rows, -1, size)), dim=1).chunk(2, dim=-1)
    heads = torch.cat(
        ((first * cosines).sub_(second * sines), (second * cosines).add_(first * sines)),
        dim=-1,
    )
    of_query = query.shape[-1] // size
    return heads[:, :of_query].reshape(query.shape), heads[:, of_query:].reshape(key.shape)


def _given(others: tuple[Any, ...], options: dict[str, Any]) -> bool:
    return any(value is not None for value in (*others, *options.values()))
