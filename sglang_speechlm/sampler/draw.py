"""One draw: top-k, then temperature, then (text only) top-p and min-p, then the Gumbel-max of seeded noise.

The noise of a candidate depends only on its request's seed, the step, the stream and the candidate's own id: not on
the batch, the device's generator or the rank. So the same seed draws the same ids alone, in a full batch, after a
retraction and on every tensor-parallel rank.
"""

from __future__ import annotations

import torch


def _int64(bits: int) -> int:
    return bits - (1 << 64) if bits >> 63 else bits


SEED, STEP, STREAM, ID = map(_int64, (0xA0761D6478BD642F, 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0x8CB92BA72F3D8DD7))
"""Odd numbers that spread the four integers of a draw over 64 bits; int64 products wrap."""
FIRST, SECOND = map(_int64, (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""Multipliers of SplitMix64's finalizer."""


def _shifted(bits: torch.Tensor, places: int) -> torch.Tensor:
    """Shift right logically; the operator of int64 tensors shifts arithmetically."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def gumbel_noise(seed: torch.Tensor, step: torch.Tensor, stream: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Return standard Gumbel noise as a pure function of four integers (counter-based, cf. Salmon et al., SC 2011).

    Uses SplitMix64's finalizer (Steele et al., OOPSLA 2014) on a weighted sum of the four.

    Args:
        seed, step, stream, ids: int64 tensors that broadcast against each other; ``seed`` may use all 64 bits.

    Returns:
        float64 tensor of the broadcast shape.
    """
    bits = seed * SEED + step * STEP + stream * STREAM + ids * ID
    bits = (bits ^ _shifted(bits, 30)) * FIRST
    bits = (bits ^ _shifted(bits, 27)) * SECOND
    bits = bits ^ _shifted(bits, 31)
    uniform = (_shifted(bits, 12).double() + 0.5) * 2.0**-52  # never 0 and never 1
    return -torch.log(-torch.log(uniform))


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
            the number of all candidates. -inf excludes a candidate. In any order, if nothing limits the candidates.
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
    """Return the ``k`` largest values of the last axis, in descending order, and their indices; fewer if there are."""
    k = min(k, logits.shape[-1])
    if k == 1:
        values, indices = logits.max(dim=-1, keepdim=True)
        return values, indices
    return torch.topk(logits, k, dim=-1)
