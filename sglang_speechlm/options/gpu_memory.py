"""The use of a GPU's memory: rows of CUDA graphs, the share of weights and KV cache, and everything else.

SGLang bounds weights and KV cache only; everything else must fit into the rest. The sizes that SGLang does not count
are estimates from shapes, and have not been verified on a card.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sglang_speechlm.checkpoint.memory import cached_positions, position_bytes, weight_bytes
from sglang_speechlm.config import SpeechLMConfig

GIBIBYTE = 1 << 30

FP8_CACHES = ("fp8_e4m3", "fp8_e5m2")
"""Values of --kv-cache-dtype with a byte for each number."""

MOST_ROWS = 1024
"""Default of --max-running-requests on a GPU: maximum rows of a batch."""

_POSITIONS_A_ROW = 256
"""Positions of KV cache per row: a batch with fewer per row is not worth a graph."""
_LEAST_POSITIONS = 64
"""Positions of the shortest requests that arrive in large numbers: the cache bounds how many of them run."""
_CONTEXT_BYTES = 0.6 * GIBIBYTE
_CODEC_BYTES = 0.8 * GIBIBYTE
"""The codec process: a CUDA context, the decoder's weights in float32, and a batch of windows."""
_NCCL_BYTES = 0.6 * GIBIBYTE
_WORKSPACE_BYTES = 0.5 * GIBIBYTE
"""Workspace of attention kernels, and the audio tower's activations for a clip of 30 s."""
_BYTES_A_GRAPH = 10 << 20
_DRAW_BYTES = 0.25 * GIBIBYTE
"""The largest draw: a piece of rows times the whole vocabulary in float64."""


@dataclass(frozen=True)
class MemoryPlan:
    """The use of one rank's GPU, in bytes.

    Attributes:
        total: the card's memory.
        parts: sizes by name, which add up to ``total``; the rest is ``free``.
        positions: positions of the KV cache.
        graph_rows: rows of the largest captured graph.
        loading: memory while the weights are loaded.
    """

    total: float
    parts: Mapping[str, float]
    positions: int
    graph_rows: int
    loading: float

    @property
    def problem(self) -> str:
        """Why a server cannot start; empty if it can."""
        if self.loading > self.total:
            return (
                f"no room on this GPU to load the weights: {self.loading / GIBIBYTE:.2f} GiB, because they are "
                "quantized after they have been loaded"
            )
        return "" if self.positions > 0 else "no room for a KV cache on this GPU"

    @property
    def fits(self) -> bool:
        """Whether a server can start, with room for everything else."""
        return not self.problem and self.parts["free"] >= 0

    def __str__(self) -> str:
        sizes = ", ".join(f"{name} {size / GIBIBYTE:.2f}" for name, size in self.parts.items())
        return (
            f"estimated GPU memory, in GiB of {self.total / GIBIBYTE:.2f}: {sizes}; the KV cache has "
            f"{self.positions} positions, and CUDA graphs cover up to {self.graph_rows} rows"
        )


def graph_rows(config: SpeechLMConfig, ranks: int, total: float, running: int, *, fp8: bool = False) -> int:
    """Return the rows of the largest CUDA graph: all that may run, if the KV cache could hold that many short answers.

    Args:
        total: the card's memory in bytes.
        running: --max-running-requests.
        fp8: whether the weights are quantized.
    """
    rows = min(running, cached_positions(config, total, ranks, fp8=fp8) // _POSITIONS_A_ROW)
    return max(rows // 8 * 8 if rows > 8 else rows, 1)


def plan_memory(config: SpeechLMConfig, server_args: Any, total: float, *, codec: bool) -> MemoryPlan:
    """Compute the use of a card's memory with resolved options.

    Args:
        server_args: SGLang's, resolved.
        total: the card's memory in bytes.
        codec: whether the codec runs on this card.
    """
    ranks = server_args.tp_size
    decode = server_args.cuda_graph_config.decode
    graphs = 0 if decode.backend == "disabled" else len(decode.bs)
    rows = decode.max_bs if graphs else 0
    own = _CONTEXT_BYTES + (_NCCL_BYTES if ranks > 1 else 0)
    wide = 2 if server_args.dtype == "float32" else 1
    fp8 = server_args.quantization == "fp8"
    weights = wide * weight_bytes(config, ranks, fp8=fp8)
    loading = own + (weight_bytes(config, ranks) if fp8 else weights)
    at_load = total - own
    cache = at_load * server_args.mem_fraction_static - weights
    cache_item = 1 if server_args.kv_cache_dtype in FP8_CACHES else 2 * wide
    a_position = position_bytes(config, ranks, item_bytes=cache_item)
    positions = int(cache // a_position)
    longest = min(2 * (server_args.context_length or config.text_config.max_position_embeddings), max(positions, 0))
    step = server_args.chunked_prefill_size if server_args.chunked_prefill_size > 0 else longest
    running = max(rows, min(server_args.max_running_requests, positions // _LEAST_POSITIONS))
    parts = {
        "weights": float(weights),
        "KV cache": cache,
        "context": own,
        "graphs": graphs * _BYTES_A_GRAPH + wide * rows * _activation_bytes(config, ranks),
        "logits": 8.0 * running * config.vocab_size,
        "draws": _DRAW_BYTES,
        "activations": wide * step * _activation_bytes(config, ranks) + _WORKSPACE_BYTES,
        "codec": (_CODEC_BYTES if codec else 0)
        + 2.0 * (config.ids.codec_end - config.ids.codec_begin + 1) * config.hidden_size,
    }
    return MemoryPlan(total, parts | {"free": total - sum(parts.values())}, positions, rows, loading)


def static_share(plan: MemoryPlan, resolved: float, ceiling: float) -> float:
    """Return the share for weights and KV cache: at most SGLang's own and ``ceiling``, with room for the rest."""
    missing = max(-plan.parts["free"], 0) / (plan.total - plan.parts["context"])
    return math.floor(min(resolved, ceiling, resolved - missing) * 1000) / 1000


def _activation_bytes(config: SpeechLMConfig, ranks: int) -> float:
    """Return the bytes of one position of a step in bfloat16: residual, attention's inputs and output, gated layer."""
    text = config.text_config
    attention = (2 * text.num_attention_heads + 2 * text.num_key_value_heads) * text.head_dim
    return 2.0 * (4 * text.hidden_size + (attention + 3 * text.intermediate_size) / ranks)
