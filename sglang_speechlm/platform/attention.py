"""Attention on a CPU in plain torch: decoding rows of like length together, a prefill's new positions alone.

SGLang's own for such a machine takes the rows of a batch one by one, and computes a prefill's cached prefix again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Span:
    """Rows of a step that are computed together.

    Attributes:
        queries: int64 [n, m], the new positions of each row among those of the step.
        places: int64 [n, L], where the KV cache holds what they see; what a shorter row has no place for is masked.
        mask: bool [n, 1, m, L], or None where nothing is masked but by ``causal``.
        causal: the new positions are the first ones, and see what is not after them.
    """

    queries: torch.Tensor
    places: torch.Tensor
    mask: torch.Tensor | None
    causal: bool


class CpuAttention(AttentionBackend):
    """Attention of one model; products and sums are in float32, whatever the cache holds."""

    def __init__(self, runner: Any) -> None:
        """Take the memory of SGLang's ModelRunner."""
        super().__init__()
        self._tokens = runner.req_to_token_pool
        self._cache = runner.token_to_kv_pool
        self._spans: list[Span] = []

    def init_forward_metadata(self, forward_batch: Any) -> None:
        """What each position of the coming step sees; all layers see the same."""
        slots, lengths = forward_batch.req_pool_indices, forward_batch.seq_lens
        if forward_batch.forward_mode.is_decode_or_idle():
            self._spans = [self._decoding(rows, slots, lengths) for rows in _alike(lengths)]
        else:
            starts = forward_batch.extend_seq_lens.cumsum(0) - forward_batch.extend_seq_lens
            steps = zip(slots, lengths.tolist(), starts.tolist(), forward_batch.extend_seq_lens.tolist(), strict=True)
            self._spans = [self._prefilling(*step) for step in steps if step[-1]]

    def forward_decode(
        self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True, **_: Any
    ) -> torch.Tensor:
        """Keep ``k`` and ``v``, and attend. ``q`` is [positions, heads * head_dim], as is what comes back."""
        if save_kv_cache and k is not None:
            self._cache.set_kv_buffer(layer, KVWriteLoc(forward_batch.out_cache_loc, None), k, v)
        keys, values = self._cache.get_key_buffer(layer.layer_id), self._cache.get_value_buffer(layer.layer_id)
        query = q.view(-1, layer.tp_q_head_num, layer.qk_head_dim)
        seen = torch.empty_like(query)
        for span in self._spans:
            attended = scaled_dot_product_attention(
                query[span.queries].transpose(1, 2).float(),
                keys[span.places].transpose(1, 2).float(),
                values[span.places].transpose(1, 2).float(),
                attn_mask=span.mask,
                is_causal=span.causal,
                scale=layer.scaling,
                enable_gqa=True,
            )
            seen[span.queries] = attended.transpose(1, 2).to(seen.dtype)
        return seen.view(q.shape)

    forward_extend = forward_decode

    def support_triton(self) -> bool:
        """No: SGLang must not launch kernels of its own around this."""
        return False

    def _decoding(self, rows: torch.Tensor, slots: torch.Tensor, lengths: torch.Tensor) -> Span:
        lengths = lengths[rows]
        longest = int(lengths.max())
        mask = torch.arange(longest) < lengths.unsqueeze(1)
        places = self._tokens.req_to_token[slots[rows], :longest].long()
        places.masked_fill_(~mask, 0)  # what an earlier request left there may be no place at all
        return Span(rows.unsqueeze(1), places, None if mask.all() else mask[:, None, None], False)

    def _prefilling(self, slot: torch.Tensor, length: int, start: int, new: int) -> Span:
        positions = torch.arange(length)
        causal = new == length
        mask = None if causal else (positions <= positions[length - new :, None])[None, None]
        places = self._tokens.req_to_token[slot, :length].long()
        return Span(torch.arange(start, start + new)[None], places[None], mask, causal)


def _alike(lengths: torch.Tensor) -> list[torch.Tensor]:
    """Rows by their length, none more than twice another of its group's: that bounds what padding costs."""
    doublings = lengths.float().log2().floor()
    return [(doublings == each).nonzero().squeeze(1) for each in doublings.unique()]
