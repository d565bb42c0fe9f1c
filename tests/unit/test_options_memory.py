"""The memory plan of a GPU at the released sizes: what quantization saves, and what it does not."""

from types import SimpleNamespace
from typing import Any

import pytest

from sglang_speechlm.checkpoint.memory import cached_positions, weight_bytes
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.options.gpu_memory import MemoryPlan, graph_rows, plan_memory

RELEASED = SpeechLMConfig()
GIBIBYTE = 1 << 30


def planned(gibibytes: float, **options: Any) -> MemoryPlan:
    """The memory plan of a GPU, without graphs."""
    options = {"quantization": None, "dtype": "bfloat16", "kv_cache_dtype": "auto", "tp_size": 1} | options
    graphs = SimpleNamespace(decode=SimpleNamespace(backend="disabled", bs=[], max_bs=0))
    rest = {"cuda_graph_config": graphs, "mem_fraction_static": 0.85, "context_length": None}
    rest |= {"chunked_prefill_size": 2048, "max_running_requests": 64}
    return plan_memory(RELEASED, SimpleNamespace(**options, **rest), gibibytes * GIBIBYTE, codec=True)


def test_fp8_halves_the_matrices_of_the_layers_and_adds_scales() -> None:
    text = RELEASED.text_config
    attention = (2 * text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim * text.hidden_size
    matrices = text.num_hidden_layers * (attention + 3 * text.hidden_size * text.intermediate_size)
    heads = (text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim
    scales = 4 * text.num_hidden_layers * (heads + 2 * text.hidden_size + 2 * text.intermediate_size)
    assert weight_bytes(RELEASED) - weight_bytes(RELEASED, fp8=True) == matrices - scales


def test_a_gpu_must_hold_the_unquantized_weights_first() -> None:
    assert planned(24, quantization="fp8").fits
    small = planned(16, quantization="fp8")
    assert small.positions > 0
    assert not small.fits
    assert "17.21 GiB, because they are quantized after they have been loaded" in small.problem
    assert planned(16, quantization="fp8", tp_size=2).fits


def test_a_gpu_without_room_for_the_weights_has_none_for_a_cache() -> None:
    assert planned(20).problem == "no room for a KV cache on this GPU"


@pytest.mark.parametrize("kind", ["fp8_e4m3", "fp8_e5m2"])
def test_a_cache_in_fp8_holds_twice_as_many_positions(kind: str) -> None:
    assert planned(48, kv_cache_dtype=kind).positions == pytest.approx(2 * planned(48).positions, abs=1)
    single = planned(80, dtype="float32").positions
    assert planned(80, dtype="float32", kv_cache_dtype=kind).positions == pytest.approx(4 * single, abs=3)


def test_saved_memory_allows_graphs_for_more_rows() -> None:
    card = 24 * GIBIBYTE
    rows = [graph_rows(RELEASED, 1, card, 1024, fp8=fp8) for fp8 in (False, True)]
    assert rows[1] == cached_positions(RELEASED, card, fp8=True) // 256 // 8 * 8
    assert rows[1] > 2 * rows[0]
