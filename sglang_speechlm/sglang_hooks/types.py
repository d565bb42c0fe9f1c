"""Protocols of SGLang's objects: every attribute that the hooks read or set.

The docstring of each names SGLang's class. ``Any`` marks values that are only passed on.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

import torch

from sglang_speechlm.stage import Stage


class SamplingParams(Protocol):
    """sglang.srt.sampling.sampling_params.SamplingParams"""

    custom_params: Any
    sampling_seed: int | None
    top_k: int
    max_new_tokens: int
    no_stop_trim: bool


class KV(Protocol):
    """sglang.srt.managers.schedule_batch.ReqKvInfo"""

    req_pool_idx: int
    cache_protected_len: int


class Req(Protocol):
    """sglang.srt.managers.schedule_batch.Req

    The hooks set the attributes that begin with ``speechlm_``; they may be absent (``sglang_hooks/req.py``).
    """

    rid: str
    kv: KV
    origin_input_ids: Sequence[int]
    output_ids: Sequence[int]
    full_untruncated_fill_ids: Sequence[int]
    prefix_len: int
    extend_len: int
    extra_key: str | None
    inflight_middle_chunks: int
    sampling_params: SamplingParams
    customized_info: dict[str, Any] | None
    cached_tokens: int
    tokenizer: Any
    eos_token_ids: Any
    vocab_size: int
    priority: Any
    last_node: Any
    lock: Any
    to_finish: Any
    finished_reason: Any
    speechlm_stage: Stage
    speechlm_shadow: Req
    speechlm_leader: Req
    speechlm_deferred: bool
    speechlm_due: int

    def set_finish_with_abort(self, error_msg: str) -> None: ...

    def init_next_round_input(self, tree_cache: Any = None) -> None: ...


class Scheduler(Protocol):
    """sglang.srt.managers.scheduler.Scheduler"""

    max_queued_requests: int | None
    max_running_requests: int
    max_total_num_tokens: int
    chunked_req: Req | None
    _pending_chunked_abort_req: Req | None


class ScheduleBatch(Protocol):
    """sglang.srt.managers.schedule_batch.ScheduleBatch"""

    reqs: list[Req]
    prefix_lens: list[int]
    extend_lens: list[int]
    sampling_info: Any
    req_pool_indices_cpu: torch.Tensor
    return_logprob: bool

    def release_req(self, idx: int, remaing_req_count: int) -> bool: ...

    def filter_batch(self, *, keep_indices: list[int]) -> None: ...


class PrefillBudget(Protocol):
    """sglang.srt.mem_cache.prefill_budget.PrefillBudget; ``pairs._MEMORY_BUDGETS`` lists the attributes that change."""

    total_offset: int
    current_offset: int


class PrefillAdder(Protocol):
    """sglang.srt.managers.schedule_policy.PrefillAdder; ``pairs._BUDGETS`` lists the attributes that it changes."""

    running_batch: ScheduleBatch
    max_running_requests: int
    tree_cache: Any
    can_run_list: list[Req]
    rem_chunk_tokens: int | None
    memory_budget: PrefillBudget
    new_chunked_req: Req | None


class TokenizerManager(Protocol):
    """sglang.srt.managers.tokenizer_manager.TokenizerManager"""

    max_req_input_len: int
    server_args: Any
    model_path: str
    model_config: Any
    served_model_name: str
    server_status: Any
    event_loop: Any
    signal_handler_class: Any

    def generate_request(self, obj: Any) -> AsyncGenerator[Any]: ...

    def abort_request(self, rid: str = "", abort_all: bool = False) -> None: ...

    async def start_profile(self, req: Any) -> Any: ...

    async def stop_profile(self) -> Any: ...

    async def freeze_gc(self) -> None: ...


class GlobalState(Protocol):
    """sglang.srt.entrypoints.http_server._GlobalState"""

    tokenizer_manager: TokenizerManager
    scheduler_info: dict[str, Any]


class ProfilerManager(Protocol):
    """sglang.srt.managers.scheduler_components.profiler_manager.SchedulerProfilerManager"""

    torch_profiler: Any
    profile_in_progress: bool
    profile_by_stage: bool
    profiler_start_forward_ct: int | None
    profiler_target_forward_ct: int | None
