"""Attention on a CPU, compared with one position at a time."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from sglang.srt.model_executor.forward_batch_info import ForwardMode
from torch import Tensor

from sglang_speechlm.platform.attention import CpuAttention

HEADS, KV_HEADS, SIZE, PLACES = 6, 2, 16, 400
LAYER = SimpleNamespace(
    layer_id=0, tp_q_head_num=HEADS, qk_head_dim=SIZE, v_head_dim=SIZE, scaling=SIZE**-0.5, tp_k_head_num=KV_HEADS
)


class Cache:
    """A KV cache of one layer."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.keys, self.values = torch.randn(2, PLACES, KV_HEADS, SIZE, generator=torch.manual_seed(0)).to(dtype)

    def get_key_buffer(self, _layer: int) -> Tensor:
        return self.keys

    def get_value_buffer(self, _layer: int) -> Tensor:
        return self.values

    def set_kv_buffer(self, _layer: Any, where: Any, keys: Tensor, values: Tensor) -> None:
        self.keys[where.loc], self.values[where.loc] = (tensor.view(-1, KV_HEADS, SIZE) for tensor in (keys, values))


def outputs(lengths: list[int], new: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Outputs and expected outputs for the last ``new`` positions of rows of the given lengths."""
    cache = Cache(dtype)
    order = torch.randperm(PLACES, generator=torch.manual_seed(1))[: sum(lengths)].split(lengths)
    slots = torch.arange(len(lengths)).flip(0)
    tokens = torch.full((len(lengths), PLACES), 2**31 - 1, dtype=torch.int32)  # left over from other requests
    for slot, places in zip(slots, order, strict=False):
        tokens[slot, : len(places)] = places
    attention = CpuAttention(
        SimpleNamespace(req_to_token_pool=SimpleNamespace(req_to_token=tokens), token_to_kv_pool=cache)
    )
    decoding = all(count == 1 for count in new)
    batch = SimpleNamespace(
        forward_mode=ForwardMode.DECODE if decoding else ForwardMode.EXTEND,
        req_pool_indices=slots,
        seq_lens=torch.tensor(lengths),
        extend_seq_lens=torch.tensor(new),
        out_cache_loc=torch.cat([places[len(places) - n :] for places, n in zip(order, new, strict=False)]),
    )
    query, key, value = torch.randn(
        3, sum(new), HEADS * SIZE, generator=torch.manual_seed(2)
    ).to(dtype)  # fmt: skip
    attention.init_forward_metadata(batch)
    forward = attention.forward_decode if decoding else attention.forward_extend
    output = forward(query, key[:, : KV_HEADS * SIZE], value[:, : KV_HEADS * SIZE], LAYER, batch)
    expected: list[Tensor] = []
    for places, count in zip(order, new, strict=False):
        for position in range(len(places) - count, len(places)):
            visible = places[: position + 1]
            row = query[len(expected)].view(HEADS, SIZE).float()
            for_head = torch.arange(HEADS) // (HEADS // KV_HEADS)
            keys, values = (tensor[visible].float()[:, for_head] for tensor in (cache.keys, cache.values))
            weights = torch.softmax(torch.einsum("hd,lhd->hl", row, keys) * LAYER.scaling, dim=1)
            expected.append(torch.einsum("hl,lhd->hd", weights, values).flatten())
    return output, torch.stack(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("lengths", "new"),
    [
        ([1], [1]),
        ([7, 7, 7], [1, 1, 1]),
        ([150, 1, 3, 60, 2, 90], [1] * 6),
        ([9], [9]),
        ([9, 30, 5], [2, 30, 4]),
    ],
)
def test_every_position_attends_to_its_own_row_up_to_itself(
    lengths: list[int], new: list[int], dtype: torch.dtype
) -> None:
    output, expected = outputs(lengths, new, dtype)
    assert output.dtype == dtype
    rtol, atol = (1.3e-6, 1e-5) if dtype == torch.float32 else (1e-2, 1e-2)
    torch.testing.assert_close(output.float(), expected, rtol=rtol, atol=atol)
