"""Norms and rotary positions on a CPU equal SGLang's own in plain torch, bit for bit."""

from typing import Any

import pytest
import torch
from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding

from sglang_speechlm.platform.operators import normalize, rotate

ROWS, SIZE, HEADS, KV_HEADS, HEAD = 5, 96, 6, 2, 16
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def norm(dtype: torch.dtype, **options: Any) -> RMSNorm:
    made = RMSNorm(SIZE, eps=1e-6, **options).to(dtype)
    made.weight.data.uniform_(-2, 2)
    return made


@DTYPES
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@torch.inference_mode()
def test_a_norm_equals_sglangs(dtype: torch.dtype, scale: float) -> None:
    module, x = norm(dtype), scale * torch.randn(ROWS, SIZE, dtype=dtype)
    normalized = normalize(module, x)
    assert normalized.is_contiguous()
    assert normalized.equal(module.forward_native(x))


@DTYPES
@torch.inference_mode()
def test_a_norm_of_columns_of_a_product_equals_sglangs(dtype: torch.dtype) -> None:
    module, x = norm(dtype), torch.randn(ROWS, 2 * SIZE, dtype=dtype)[:, SIZE:]
    assert normalize(module, x).equal(module.forward_native(x))


@DTYPES
@torch.inference_mode()
def test_a_norm_of_a_sum_and_the_sum_equal_sglangs(dtype: torch.dtype) -> None:
    module, x, residual = norm(dtype), *torch.randn(2, ROWS, SIZE, dtype=dtype)
    for own, expected in zip(normalize(module, x, residual), module.forward_native(x, residual), strict=True):
        assert own.dtype is expected.dtype
        assert own.equal(expected)


@torch.inference_mode()
def test_another_kind_of_norm_is_left_to_sglang() -> None:
    x, more = torch.randn(2, ROWS, SIZE, dtype=torch.bfloat16)
    module = norm(torch.bfloat16, cast_x_before_out_mul=True)
    assert normalize(module, x).equal(module.forward_native(x))
    module = norm(torch.bfloat16)
    for own, expected in zip(normalize(module, x, x, more), module.forward_native(x, x, more), strict=True):
        assert own.equal(expected)


@DTYPES
@pytest.mark.parametrize("is_neox_style", [True, False])
@torch.inference_mode()
def test_rotated_heads_equal_sglangs(dtype: torch.dtype, is_neox_style: bool) -> None:
    module = RotaryEmbedding(HEAD, HEAD, 64, 10000, is_neox_style, dtype)
    query, key = torch.randn(ROWS, HEADS * HEAD, dtype=dtype), torch.randn(ROWS, KV_HEADS * HEAD, dtype=dtype)
    positions = torch.tensor([0, 3, 3, 17, 63])
    expected = module.forward_native(positions, query, key)
    for rotated, native in zip(rotate(module, positions, query, key), expected, strict=True):
        assert rotated.equal(native)
