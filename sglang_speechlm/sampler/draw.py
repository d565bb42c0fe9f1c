"""One draw: top-k, then temperature, then (text only) top-p and min-p, then the Gumbel-max of seeded noise.

The noise of a candidate depends on its request's seed, the step, the stream and the candidate's own id, and on
nothing else: not on the batch, not on the device's generator, not on the rank. So the same seed gives the same ids
alone, in a full batch, after a retraction and on every tensor-parallel rank.
"""

from __future__ import annotations

import torch

_MASK = 0xFFFFFFFF


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """The 32-bit finalizer of MurmurHash3 (Austin Appleby, public domain) on int64 tensors that hold 32-bit values."""
    bits = bits ^ (bits >> 16)
    bits = (bits * 0x85EBCA6B) & _MASK
    bits = bits ^ (bits >> 13)
    bits = (bits * 0xC2B2AE35) & _MASK
    return bits ^ (bits >> 16)


def gumbel_noise(seed: torch.Tensor, step: torch.Tensor, stream: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Standard Gumbel noise as a pure function of four integers (counter-based, cf. Salmon et al., SC 2011).

    Args:
        seed, step, stream, ids: int64 tensors that broadcast against each other; ``seed`` may use all 64 bits.

    Returns:
        float64 tensor of the broadcast shape.
    """
    state = _mix((seed & _MASK) ^ 0x9E3779B9)
    state = _mix(state ^ ((seed >> 32) & _MASK))
    state = _mix((state + step * 0x9E3779B1) & _MASK)
    state = _mix((state + (stream + 1) * 0x85EBCA77) & _MASK)
    high = _mix((state + (ids + 1) * 0xC2B2AE3D) & _MASK)
    low = _mix(high ^ 0x27D4EB2F)
    uniform = (high.double() * 2.0**32 + low.double() + 0.5) * 2.0**-64
    return -torch.log(-torch.log(uniform.clamp_max(1.0 - 2.0**-53)))


def draw(
    values: torch.Tensor,
    ids: torch.Tensor,
    *,
    top_k: torch.Tensor,
    temperature: torch.Tensor,
    seed: torch.Tensor,
    step: torch.Tensor,
    stream: torch.Tensor,
    top_p: torch.Tensor | None = None,
    min_p: torch.Tensor | None = None,
) -> torch.Tensor:
    """Draw one id per row from its best candidates.

    Args:
        values: float [..., K], logits of the candidates in descending order; K is at least every row's ``top_k`` or
            the number of all candidates. -inf excludes a candidate.
        ids: int64 [..., K], ids of the candidates.
        top_k, temperature, seed, step, stream: tensors that broadcast against ``values``. A top-k of 1 is greedy.
        top_p, min_p: likewise, applied to the probabilities that top-k and temperature leave.

    Returns:
        int64 [...]: the ids drawn.
    """
    rank = torch.arange(values.shape[-1], device=values.device)
    logits = values.double() / temperature
    logits = logits.masked_fill(rank >= top_k, float("-inf"))
    if top_p is not None or min_p is not None:
        probabilities = torch.softmax(logits, dim=-1)
        if top_p is not None:
            before = probabilities.cumsum(dim=-1) - probabilities
            logits = logits.masked_fill((before >= top_p) & (rank > 0), float("-inf"))
        if min_p is not None:
            logits = logits.masked_fill(probabilities < probabilities[..., :1] * min_p, float("-inf"))
    logits = logits + gumbel_noise(seed, step, stream, ids)
    return ids.gather(-1, logits.argmax(dim=-1, keepdim=True)).squeeze(-1)


def best(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``k`` largest of the last axis in descending order, and their indices; all of them if there are fewer."""
    k = min(k, logits.shape[-1])
    if k == 1:
        values, indices = logits.max(dim=-1, keepdim=True)
        return values, indices
    return torch.topk(logits, k, dim=-1)
