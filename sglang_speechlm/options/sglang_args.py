"""SGLang's options: which are accepted, which values are required, and defaults by checkpoint and machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from sglang_speechlm.checkpoint.served import QUANTIZATION_FIELDS
from sglang_speechlm.checkpoint.shards import stored_dtype
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.options.gpu_memory import FP8_CACHES
from sglang_speechlm.options.shared import key_complaints, tls_complaints
from sglang_speechlm.sglang_hooks import GRAMMAR_BACKEND

_FP8_CAPABILITY = (8, 0)
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
    "attn_dp_size": (1, "requests would change ranks without their frames"),
    "disaggregation_mode": ("null", "frames do not travel between prefill and decode servers"),
    "tokenizer_worker_num": (1, "the program and the codec live in one HTTP process"),
    "skip_tokenizer_init": (False, "this server encodes and decodes texts itself"),
    "grammar_backend": (GRAMMAR_BACKEND, "SGLang's own would read control ids as text, and knows only one end id"),
    "enable_lora": (None, "adapters do not cover the streams"),
    "enable_hierarchical_cache": (False, "SGLang's other caches would treat frames as text"),
    "enable_lmcache": (False, "SGLang's other caches would treat frames as text"),
    "enable_unified_cache_external_linker": (False, "SGLang's other caches would treat frames as text"),
    "startup_weight_load_mode": ("serial", "the frames' head is computed from the weights before graphs are captured"),
    "enable_watermark": (False, "frames and texts are drawn by this package's sampler, which sets no watermark"),
    "enable_torch_compile": (False, "the per-request state is written between compiled steps"),
    "enable_streaming_session": (False, "sessions append to a context that the program itself builds"),
    "enable_http2": (False, "its HTTP server cannot stop without cutting off answers"),
    "enable_pdmux": (False, "a step that prefills and decodes at once would mix up frames"),
    "dllm_algorithm": (None, "frames are decoded from left to right"),
    "reasoning_parser": (None, _OWN),
    "tool_call_parser": (None, _OWN),
    "enable_two_batch_overlap": (False, "the halves of a split batch would lose the rows of its view"),
    "enable_unified_memory": (False, "slots and positions would move between pools without their frames"),
    "prefill_max_requests": (None, "both branches of a guided answer must be prefilled in one step"),
}
"""Required values of fields of SGLang's ServerArgs, and why."""


_ACCEPTED = frozenset({
    # The model and its memory
    "context_length", "download_dir", "dtype", "json_model_override_args", "kv_cache_dtype", "load_format",
    "max_queued_requests", "max_running_requests", "max_total_tokens", "mem_fraction_static", "quantization",
    "random_seed", "trust_remote_code", "weight_loader_disable_mmap", "weight_loader_prefetch_checkpoints",
    # Steps
    "attention_backend", "chunked_prefill_size", "cuda_graph_bs_decode", "cuda_graph_max_bs_decode",
    "decode_attention_backend", "disable_cuda_graph", "disable_cuda_graph_padding", "disable_decode_cuda_graph",
    "disable_flashinfer_autotune", "disable_overlap_schedule", "disable_prefill_cuda_graph", "disable_radix_cache",
    "max_prefill_tokens", "prefill_attention_backend", "prefill_decode_interval", "prefill_decode_interval_min_bs",
    "radix_eviction_policy", "schedule_conservativeness", "schedule_policy", "scheduler_recv_interval", "sleep_on_idle",
    # GPUs, ranks and nodes
    "base_gpu_id", "device", "disable_custom_all_reduce", "dist_init_addr", "dist_timeout", "dp_size",
    "enable_nccl_nvls", "enable_p2p_check", "gpu_id_step", "load_balance_method", "nccl_port", "nnodes", "node_rank",
    "numa_node", "tp_size",
    # HTTP
    "admin_api_key", "api_key", "enable_cache_report", "enable_ssl_refresh", "fastapi_root_path", "host", "port",
    "served_model_name", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_keyfile_password", "weight_version",
    # Logs, metrics and traces
    "bucket_e2e_request_latency", "bucket_inter_token_latency", "bucket_time_to_first_token", "crash_dump_folder",
    "decode_log_interval", "enable_metrics", "enable_metrics_for_all_schedulers", "enable_request_time_stats_logging",
    "enable_trace", "export_metrics_to_file", "export_metrics_to_file_dir", "extra_metric_labels",
    "gc_warning_threshold_secs", "generation_tokens_buckets", "log_level", "log_level_http", "log_requests",
    "log_requests_format", "log_requests_level", "log_requests_target", "otlp_traces_endpoint",
    "prompt_tokens_buckets", "show_time_cost", "soft_watchdog_timeout", "trace_modules",
    "uvicorn_access_log_exclude_prefixes", "watchdog_timeout",
})  # fmt: skip
"""SGLang's options that change neither how steps are composed, nor the model, nor which process does what."""

_ACCEPTED_VALUES: dict[str, tuple[tuple[str, ...], str]] = {
    "quantization": (
        ("fp8", "unquant"),
        "SGLang's other methods need another checkpoint, leave this one as it is, or are untested with SpeechLM",
    ),
    "load_format": (
        ("auto", "safetensors", "fastsafetensors", "runai_streamer", "dummy"),
        "a served directory contains safetensors files that are not quantized",
    ),
    "kv_cache_dtype": (("auto", "bf16", "bfloat16", *FP8_CACHES), "SGLang's other formats need other attention"),
}
"""Values of accepted options whose other values are refused, and why."""

UNTESTED_OPTIONS = "SGLANG_SPEECHLM_UNTESTED_OPTIONS"
"""A variable for those who test SGLang's options: set to 1, it accepts all that are not known to fail."""

_UNTESTED = f"it has not been tested with SpeechLM; {UNTESTED_OPTIONS}=1 accepts it anyway"


def refuse_untested(options: Mapping[str, tuple[Any, Any]], environment: Mapping[str, str]) -> None:
    """Refuse SGLang's options, unless they are accepted.

    Args:
        options: by name, the value on the command line and the default, which differ.
        environment: its variable may accept those that are merely untested.

    Raises:
        ValueError: if there are any to refuse; the message has each option, its value and the reason.
    """
    complaints = []
    for name, (value, default) in options.items():
        if name in _ACCEPTED_VALUES and value not in _ACCEPTED_VALUES[name][0]:
            allowed, reason = _ACCEPTED_VALUES[name]
            complaints.append(_complaint(name, value, _values(allowed), reason))
        elif name not in _ACCEPTED and (name in _REFUSED or environment.get(UNTESTED_OPTIONS) != "1"):
            complaints.append(_complaint(name, value, repr(default), _REFUSED.get(name, (None, _UNTESTED))[1]))
    _refuse(complaints)


def refuse_unsupported(server_args: Any) -> None:
    """Refuse options of SGLang's that would produce wrong audio.

    Raises:
        ValueError: if there are any; the message has each option, its value and the reason.
    """
    complaints = []
    for name, (allowed, reason) in _REFUSED.items():
        value = getattr(server_args, name)
        if value and value != allowed:
            complaints.append(_complaint(name, value, _values(allowed), reason))
    if any(field in server_args.json_model_override_args for field in QUANTIZATION_FIELDS):
        value, reason = server_args.json_model_override_args, "a quantized checkpoint cannot be served"
        complaints.append(_complaint("json_model_override_args", value, "{}", reason))
    if server_args.chunked_prefill_size == 1:
        complaints.append(
            _complaint("chunked_prefill_size", 1, "at least 2", "a step computes both branches of a guided answer")
        )
    _refuse(complaints + key_complaints(server_args) + tls_complaints(server_args))


def refuse_quantization(server_args: Any, capability: tuple[int, int]) -> None:
    """Refuse --quantization where SGLang cannot quantize the weights.

    Args:
        server_args: SGLang's ServerArgs, resolved.
        capability: CUDA capability of the GPU.

    Raises:
        ValueError: if they were to be quantized and cannot be; the message has the reason.
    """
    if server_args.quantization is None:
        return
    if server_args.device != "cuda":
        reason = "it needs an NVIDIA GPU"
    elif capability < _FP8_CAPABILITY:
        needed, own = (".".join(map(str, numbers)) for numbers in (_FP8_CAPABILITY, capability))
        reason = f"it needs a GPU of compute capability {needed} or newer; this one has {own}"
    elif server_args.dtype == "float32":
        reason = "float32 weights cannot be quantized; --dtype bfloat16 converts them first"
    else:
        return
    _refuse([_complaint("quantization", server_args.quantization, "None", reason)])


def _values(allowed: Any) -> str:
    return " or ".join(map(repr, allowed)) if isinstance(allowed, tuple) else repr(allowed)


def _complaint(name: str, value: Any, allowed: str, reason: str) -> str:
    return f"--{name.replace('_', '-')} (set to {value!r}; allowed: {allowed}): {reason}"


def _refuse(complaints: list[str]) -> None:
    if complaints:
        raise ValueError("these options do not work with SpeechLM:\n  " + "\n  ".join(complaints))


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
