"""The table of hooks: which function hooks which place in SGLang.

SGLang loads the plugin wherever this package is installed, whatever model it serves. The hooks act for SpeechLM only,
and leave every other model unchanged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.constrained.base_grammar_backend import register_grammar_backend
from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS, register_attention_backend
from sglang.srt.mem_cache.registry import register_radix_cache_backend
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from sglang.srt.server_args import GRAMMAR_BACKEND_CHOICES, add_grammar_backend_choices
from transformers import AutoConfig

from sglang_speechlm.config import BagpiperConfig, SpeechLMConfig
from sglang_speechlm.sglang_hooks import (
    GRAMMAR_BACKEND,
    RADIX_BACKEND,
    chunks,
    ends,
    outputs,
    pairs,
    processes,
    profiles,
    results,
    steps,
)
from sglang_speechlm.sglang_hooks.radix import PromptRadixCache, prompt_radix_cache
from sglang_speechlm.sglang_hooks.served import serves_speechlm


def refuse_missing_hooks(*_args: Any, **_kwargs: Any) -> None:
    """BEFORE ModelRunner.alloc_memory_pool: SGLang only logs a hook that it could not apply; the audio would be wrong.

    The same is true of an overriding method whose base method has been renamed, so that it is never called.

    Raises:
        RuntimeError: if hooks are missing or methods override nothing; the message names them.
    """
    missing = [target for target, _, _ in HOOKS if target not in HookRegistry._patched]
    missing += [name for cls in own_classes() for name in overriding_nothing(cls)]
    if missing:
        raise RuntimeError(f"SGLang internals that SpeechLM hooks were not found (wrong SGLang version?): {missing}")


def own_classes() -> list[type]:
    """Return this package's subclasses of SGLang's classes that are used on this machine."""
    from sglang_speechlm.model.processor import PlacedAudioProcessor
    from sglang_speechlm.model.speechlm import SpeechLMForConditionalGeneration
    from sglang_speechlm.sglang_hooks.grammar import TextGrammar, TextGrammarBackend
    from sglang_speechlm.sglang_hooks.sampler import SpeechLMSampler

    classes: list[type] = [
        PromptRadixCache, SpeechLMSampler, SpeechLMForConditionalGeneration, PlacedAudioProcessor, TextGrammar,
        TextGrammarBackend,
    ]  # fmt: skip
    if not torch.cuda.is_available():
        from sglang_speechlm.platform.attention import CpuAttention
        from sglang_speechlm.platform.cpu import CpuPlatform

        classes += [CpuAttention, CpuPlatform]
    return classes


def overriding_nothing(cls: type) -> list[str]:
    """Return the methods of a class that are marked with ``override`` but exist in none of its bases."""
    marked = [name for name, value in vars(cls).items() if getattr(value, "__override__", False)]
    bases = cls.__mro__[1:]
    return [f"{cls.__qualname__}.{name}" for name in marked if not any(name in vars(base) for base in bases)]


_PROFILER = "sglang.srt.managers.scheduler_components.profiler_manager.SchedulerProfilerManager"

HOOKS: list[tuple[str, Callable[..., Any], HookType]] = [
    ("sglang.srt.model_executor.model_runner.ModelRunner.alloc_memory_pool", refuse_missing_hooks, HookType.BEFORE),
    ("sglang.srt.model_executor.model_runner.ModelRunner.alloc_memory_pool", steps.attach_requests, HookType.AFTER),
    ("sglang.srt.model_executor.forward_batch_info.ForwardBatch.init_new", steps.view_batch, HookType.AFTER),
    (
        "sglang.srt.model_executor.runner.decode_cuda_graph_runner.DecodeCudaGraphRunner.execute",
        steps.apply_head,
        HookType.AFTER,
    ),
    ("sglang.srt.managers.mm_schedule._move_items_to_device", steps.leave_on_host, HookType.AROUND),
    (
        "sglang.srt.managers.schedule_batch.Req.init_incremental_detokenize",
        results.skip_detokenizing_frames,
        HookType.AROUND,
    ),
    ("sglang.srt.managers.scheduler.Scheduler._add_request_to_queue", pairs.queue_request, HookType.AROUND),
    ("sglang.srt.managers.schedule_policy.PrefillAdder.add_one_req", pairs.admit_pair, HookType.AROUND),
    ("sglang.srt.managers.schedule_policy.PrefillAdder.add_chunked_req", chunks.continue_pair, HookType.AROUND),
    ("sglang.srt.managers.scheduler.Scheduler._should_defer_prefill", chunks.follow_each_other, HookType.AROUND),
    ("sglang.srt.managers.schedule_batch.ScheduleBatch.filter_batch", chunks.leave_out_shadows, HookType.BEFORE),
    ("sglang.srt.managers.scheduler.Scheduler.process_pending_chunked_abort", chunks.abort_pair, HookType.AROUND),
    ("sglang.srt.managers.schedule_batch.ScheduleBatch.retract_decode", pairs.retract_pairs, HookType.AROUND),
    ("sglang.srt.managers.scheduler.Scheduler.process_batch_result", pairs.finish_together, HookType.BEFORE),
    (
        "sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer._stream_output_generation",
        outputs.send_due,
        HookType.BEFORE,
    ),
    (f"{_PROFILER}._start_profile", profiles.survive_failure, HookType.AROUND),
    (f"{_PROFILER}._stop_profile", profiles.survive_failure, HookType.AROUND),
]


FORKING = ("sglang.srt.entrypoints.engine._set_envs_and_config", processes.fork_parts, HookType.AFTER)
"""Only for a server without a GPU: other processes that load the plugins may have threads, which a fork loses."""


def fork_parts() -> None:
    """Fork the processes that this one is going to start. Call it before ``load_plugins``."""
    HookRegistry.register(*FORKING)


OWN_PROCESSORS = (
    "sglang.srt.managers.multimodal_processor.import_processors",
    processes.import_own_processors,
    HookType.AROUND,
)
"""For a server of this model only; any other process that loads the plugins may need SGLang's processors."""


ENDS = ("sglang.srt.configs.model_config.ModelConfig._get_hf_eos_token_id", ends.own_ends, HookType.AROUND)
"""Not guarded by ``only_for_speechlm``: it runs while the config is created, when the served model is not yet known."""


def import_own_model_alone() -> None:
    """Stop SGLang from importing its own models and multimodal processors. Call it before ``load_plugins``."""
    processes.disable_other_models()
    HookRegistry.register(*OWN_PROCESSORS)


def register_all() -> None:
    """Register everything with SGLang, which then applies the hooks."""
    for config in (SpeechLMConfig, BagpiperConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    register_radix_cache_backend(RADIX_BACKEND, prompt_radix_cache)
    register_grammar_backend(GRAMMAR_BACKEND, _text_grammars)
    if GRAMMAR_BACKEND not in GRAMMAR_BACKEND_CHOICES:
        add_grammar_backend_choices([GRAMMAR_BACKEND])
    if not torch.cuda.is_available():
        _register_cpu_attention("torch_native")  # SGLang's name for attention in plain torch
    HookRegistry.register(*ENDS)
    for target, hook, kind in HOOKS:
        HookRegistry.register(target, only_for_speechlm(hook, kind), kind)


def only_for_speechlm(hook: Callable[..., Any], kind: HookType) -> Callable[..., Any]:
    """Return the hook with a guard: it acts only in a process that serves SpeechLM."""
    acts = False  # a process that serves it does so to its end, and some hooks run for every row of every step

    @functools.wraps(hook)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        nonlocal acts
        if acts or (acts := serves_speechlm()):
            return hook(*args, **kwargs)
        return args[0](*args[1:], **kwargs) if kind is HookType.AROUND else None

    return guarded


def _text_grammars(*arguments: Any) -> Any:
    from sglang_speechlm.sglang_hooks.grammar import text_grammars  # with xgrammar, where a scheduler starts

    return text_grammars(*arguments)


def _register_cpu_attention(name: str) -> None:
    stock = ATTENTION_BACKENDS[name]

    def create(runner: Any) -> Any:
        from sglang_speechlm.platform import operators
        from sglang_speechlm.platform.attention import CpuAttention

        if not serves_speechlm():
            return stock(runner)
        operators.register()
        return CpuAttention(runner)

    register_attention_backend(name)(create)
