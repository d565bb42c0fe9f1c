"""CPU attention in plain torch: decodes rows of similar length together, and computes only a prefill's new positions.

SGLang's own backend for such a machine processes the rows of a batch one by one, and recomputes a prefill's cached
prefix.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from sglang.srt.layers.attention.base_attn_backend import AttentionBackend
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from torch.nn.functional import scaled_dot_product_attention
from typing_extensions import override


@dataclass(frozen=True)
class Span:
    """Rows of a step that are computed together.

    Attributes:
        queries: int64 [n, m], indices of each row's new positions among those of the step.
        places: int64 [n, L], KV cache indices of the visible positions; the padding of shorter rows is masked.
        mask: bool [n, 1, m, L], or None if only ``causal`` masks.
        causal: whether the new positions are the row's first ones, and see no later positions.
    """

    queries: torch.Tensor
    places: torch.Tensor
    mask: torch.Tensor | None
    causal: bool


class CpuAttention(AttentionBackend):
    """Attention of one model; computes in float32, whatever the dtype of the cache."""

    def __init__(self, runner: Any) -> None:
        """Use the memory pools of SGLang's ModelRunner."""
        super().__init__()
        self._tokens = runner.req_to_token_pool
        self._cache = runner.token_to_kv_pool
        self._spans: list[Span] = []

    @override
    def init_forward_metadata(self, forward_batch: Any) -> None:
        """Compute which positions are visible in the next step, the same for all layers."""
        slots, lengths = forward_batch.req_pool_indices, forward_batch.seq_lens
        if forward_batch.forward_mode.is_decode_or_idle():
            on_host = lengths.tolist()
            self._spans = [self._decoding(rows, slots, [on_host[row] for row in rows]) for rows in _alike(on_host)]
        else:
            starts = forward_batch.extend_seq_lens.cumsum(0) - forward_batch.extend_seq_lens
            steps = zip(slots, lengths.tolist(), starts.tolist(), forward_batch.extend_seq_lens.tolist(), strict=True)
            self._spans = [self._prefilling(*step) for step in steps if step[-1]]

    @override
    def forward_decode(
        self, q: Any, k: Any, v: Any, layer: Any, forward_batch: Any, save_kv_cache: bool = True, **_: Any
    ) -> torch.Tensor:
        """Store ``k`` and ``v``, and attend. ``q`` and the result are [positions, heads * head_dim]."""
        if save_kv_cache and k is not None:
            self._cache.set_kv_buffer(layer, KVWriteLoc(forward_batch.out_cache_loc, None), k, v)
        keys, values = self._cache.get_key_buffer(layer.layer_id), self._cache.get_value_buffer(layer.layer_id)
        query = q.view(-1, layer.tp_q_head_num, layer.qk_head_dim)
        if len(self._spans) == 1:  # it has all positions, in order
            (span,) = self._spans
            alone = query.view(*span.queries.shape, *query.shape[1:])
            return _attended(span, alone, keys, values, layer.scaling).reshape(q.shape)
        seen = torch.empty_like(query)
        for span in self._spans:
            seen[span.queries] = _attended(span, query[span.queries], keys, values, layer.scaling)
        return seen.view(q.shape)

    forward_extend = forward_decode

    @override
    def support_triton(self) -> bool:
        """Return False: SGLang must not launch its own kernels around this backend."""
        return False

    def _decoding(self, rows: list[int], slots: torch.Tensor, lengths: list[int]) -> Span:
        queries = torch.tensor(rows).unsqueeze(1)
        longest = max(lengths)
        places = self._tokens.req_to_token[slots[queries[:, 0]], :longest].long()
        if min(lengths) == longest:
            return Span(queries, places, None, False)
        mask = torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)
        places.masked_fill_(~mask, 0)  # leftovers of an earlier request may be invalid indices
        return Span(queries, places, mask[:, None, None], False)

    def _prefilling(self, slot: torch.Tensor, length: int, start: int, new: int) -> Span:
        positions = torch.arange(length)
        causal = new == length
        mask = None if causal else (positions <= positions[length - new :, None])[None, None]
        places = self._tokens.req_to_token[slot, :length].long()
        return Span(torch.arange(start, start + new)[None], places[None], mask, causal)


def _alike(lengths: list[int]) -> list[list[int]]:
    """Group rows by length, none twice as long as another in its group, which bounds the cost of padding."""
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(length.bit_length(), []).append(row)
    return list(groups.values())


def _attended(
    span: Span, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Return the attention of [n, m, heads, head_dim] queries, in the same shape and dtype."""
    seen = scaled_dot_product_attention(
        query.transpose(1, 2).float(),
        keys[span.places].transpose(1, 2).float(),
        values[span.places].transpose(1, 2).float(),
        attn_mask=span.mask,
        is_causal=span.causal,
        scale=scaling,
        enable_gqa=True,
    )
    return seen.transpose(1, 2).to(query.dtype)
