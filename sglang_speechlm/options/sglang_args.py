"""Required values of SGLang's options, and defaults that depend on the checkpoint and the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil

from sglang_speechlm.checkpoint.shards import stored_dtype
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.options.shared import key_complaints
from sglang_speechlm.sglang_hooks import GRAMMAR_BACKEND

_CPU_CACHE_SHARE = 0.25
_CPU_CACHE_POSITIONS = 131072

_OWN = "must be given on the command line, not in a configuration file"

_REFUSED: dict[str, tuple[Any, str]] = {
    "enable_mixed_chunk": (False, "a step that prefills and decodes at once would mix up frames"),
    "speculative_algorithm": (None, "a draft has one stream, a frame has eight"),
    "enable_priority_scheduling": (
        False,
        "its preemption would separate guided branches that must be decoded together",
    ),
    "page_size": (1, "the prompt of an answer ends where its first frame begins, inside a page"),
    "pp_size": (1, "the last stage's frames do not reach the first stage's embeddings"),
    "enable_dp_attention": (False, "requests would change ranks without their frames"),
    "disaggregation_mode": ("null", "frames do not travel between prefill and decode servers"),
    "tokenizer_worker_num": (1, "the program and the codec live in one HTTP process"),
    "skip_tokenizer_init": (False, "texts are encoded and decoded here"),
    "grammar_backend": (GRAMMAR_BACKEND, "SGLang's own would take control ids for text, and know but one of its ends"),
    "enable_lora": (None, "adapters do not cover the streams"),
    "enable_hierarchical_cache": (False, "SGLang's other caches would take frames for text"),
    "enable_lmcache": (False, "SGLang's other caches would take frames for text"),
    "enable_torch_compile": (False, "the per-request state is written between compiled steps"),
    "enable_streaming_session": (False, "sessions append to a context that the program itself builds"),
    "enable_http2": (False, "its HTTP server cannot stop without cutting off answers"),
    "enable_pdmux": (False, "a step that prefills and decodes at once would mix up frames"),
    "dllm_algorithm": (None, "frames are decoded from left to right"),
    "reasoning_parser": (None, _OWN),
    "tool_call_parser": (None, _OWN),
    "enable_two_batch_overlap": (False, "a batch cut in two would lose the rows that its view names"),
    "enable_single_batch_overlap": (False, "designed for mixtures of experts, which this model is not; untested"),
    "enable_unified_memory": (False, "slots and positions would move between pools without their frames"),
    "prefill_max_requests": (None, "both branches of a guided answer must be prefilled in one step"),
}
"""Required values of fields of SGLang's ServerArgs, and why."""


def refuse_unsupported(server_args: Any) -> None:
    """Refuse options of SGLang's that would produce wrong audio.

    Raises:
        ValueError: if there are any; the message has each option, its value and the reason.
    """
    complaints = []
    for name, (allowed, reason) in _REFUSED.items():
        value = getattr(server_args, name)
        if value and value != allowed:
            complaints.append(f"--{name.replace('_', '-')} (set to {value!r}; only {allowed!r}): {reason}")
    complaints += key_complaints(server_args)
    if complaints:
        raise ValueError("these options cannot be served with SpeechLM:\n  " + "\n  ".join(complaints))


def refuse_missing_gpus(server_args: Any, gpus: int) -> None:
    """Refuse more ranks than GPUs, which SGLang would report with a traceback from each rank.

    Args:
        server_args: SGLang's ServerArgs.
        gpus: number of GPUs of this machine; 0 means a CPU, which has other rules.

    Raises:
        ValueError: if there are too few GPUs.
    """
    ranks = server_args.tp_size * server_args.dp_size // server_args.nnodes
    needed = server_args.base_gpu_id + (ranks - 1) * server_args.gpu_id_step + 1
    if gpus and needed > gpus:
        raise ValueError(
            f"--tp-size (--tensor-parallel-size) {server_args.tp_size}, --base-gpu-id {server_args.base_gpu_id}: "
            f"{needed} GPUs needed, but this machine has {gpus}; launch/serve_cfg_1.sh needs one"
        )


def defaults_from(model_path: Path, config: SpeechLMConfig, *, on_cpu: bool) -> dict[str, Any]:
    """Return defaults of SGLang's options that depend on the checkpoint and the machine.

    A float32 checkpoint is served in float32, whether its config says so or only its tensors. On a CPU, the KV cache
    takes a bounded part of the free memory; SGLang by itself would take most of it.
    """
    dtype = str(config.dtype or config.text_config.dtype or stored_dtype(model_path)).removeprefix("torch.")
    settled: dict[str, Any] = {"dtype": dtype}
    if on_cpu:
        text = config.text_config
        position_bytes = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim
        position_bytes *= 4 if dtype == "float32" else 2
        affordable = int(psutil.virtual_memory().available * _CPU_CACHE_SHARE) // position_bytes
        settled["max_total_tokens"] = min(affordable, _CPU_CACHE_POSITIONS)
    return settled
