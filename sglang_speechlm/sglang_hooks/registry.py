"""Which function of ours stands at which place of SGLang.

The plugin is loaded wherever this package is installed, whatever model is served: what is registered here acts for
SpeechLM alone, and leaves every other model to SGLang.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from sglang.srt.layers.attention.attention_registry import ATTENTION_BACKENDS, register_attention_backend
from sglang.srt.mem_cache.registry import register_radix_cache_backend
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from transformers import AutoConfig

from sglang_speechlm.config import BagpiperConfig, SpeechLMConfig
from sglang_speechlm.sglang_hooks import RADIX_BACKEND, ends, pairs, processes, results, steps
from sglang_speechlm.sglang_hooks.radix import PromptRadixCache, prompt_radix_cache
from sglang_speechlm.sglang_hooks.served import serves_speechlm


def refuse_missing_hooks(*_args: Any, **_kwargs: Any) -> None:
    """BEFORE ModelRunner.alloc_memory_pool: SGLang only logs a hook that it could not apply; the audio would be wrong.

    So it would be where a method that a class of this package overrides has another name by now, and is never called.

    Raises:
        RuntimeError: naming the places that are not hooked, and the methods that override nothing.
    """
    missing = [target for target, _, _ in HOOKS if target not in HookRegistry._patched]
    missing += [name for cls in own_classes() for name in overriding_nothing(cls)]
    if missing:
        raise RuntimeError(f"SGLang internals that SpeechLM hooks were not found (wrong SGLang version?): {missing}")


def own_classes() -> list[type]:
    """Return the classes by which this package extends SGLang's, and that this machine uses."""
    from sglang_speechlm.model.speechlm import SpeechLMForConditionalGeneration
    from sglang_speechlm.prompt.processor import PlacedAudioProcessor
    from sglang_speechlm.sampler.backend import SpeechLMSampler

    classes: list[type] = [
        PromptRadixCache, SpeechLMSampler, SpeechLMForConditionalGeneration, PlacedAudioProcessor
    ]  # fmt: skip
    if not torch.cuda.is_available():
        from sglang_speechlm.platform.attention import CpuAttention
        from sglang_speechlm.platform.cpu import CpuPlatform

        classes += [CpuAttention, CpuPlatform]
    return classes


def overriding_nothing(cls: type) -> list[str]:
    """Return the methods of a class that are marked with ``override`` and that none of its bases has."""
    marked = [name for name, value in vars(cls).items() if getattr(value, "__override__", False)]
    bases = cls.__mro__[1:]
    return [f"{cls.__qualname__}.{name}" for name in marked if not any(name in vars(base) for base in bases)]


HOOKS: list[tuple[str, Callable[..., Any], HookType]] = [
    ("sglang.srt.model_executor.model_runner.ModelRunner.alloc_memory_pool", refuse_missing_hooks, HookType.BEFORE),
    ("sglang.srt.model_executor.model_runner.ModelRunner.alloc_memory_pool", steps.attach_requests, HookType.AFTER),
    ("sglang.srt.model_executor.forward_batch_info.ForwardBatch.init_new", steps.view_batch, HookType.AFTER),
    ("sglang.srt.managers.mm_utils._move_items_to_device", steps.leave_on_host, HookType.AROUND),
    ("sglang.srt.managers.utils.GenerationBatchResult.copy_to_cpu", results.copy_frames, HookType.BEFORE),
    (
        "sglang.srt.managers.scheduler_components.batch_result_processor."
        "SchedulerBatchResultProcessor._maybe_collect_customized_info",
        results.collect_frames,
        HookType.AROUND,
    ),
    (
        "sglang.srt.managers.schedule_batch.Req.init_incremental_detokenize",
        results.skip_detokenizing_frames,
        HookType.AROUND,
    ),
    ("sglang.srt.managers.scheduler.Scheduler._add_request_to_queue", pairs.queue_request, HookType.AROUND),
    ("sglang.srt.managers.schedule_policy.PrefillAdder.add_one_req", pairs.admit_pair, HookType.AROUND),
    ("sglang.srt.managers.schedule_batch.ScheduleBatch.retract_decode", pairs.retract_pairs, HookType.AROUND),
    ("sglang.srt.managers.scheduler.Scheduler.process_batch_result", pairs.finish_together, HookType.BEFORE),
    (
        "sglang.srt.managers.scheduler_components.output_streamer.SchedulerOutputStreamer._stream_output_generation",
        pairs.hide_shadows,
        HookType.BEFORE,
    ),
]


FORKING = ("sglang.srt.entrypoints.engine._set_envs_and_config", processes.fork_parts, HookType.AFTER)
"""Of a server without a GPU. Any other process that loads the plugins may have threads that a fork would hurt."""


def fork_parts() -> None:
    """Have the processes that this one is going to start begin as its copies. Before ``load_plugins``."""
    HookRegistry.register(*FORKING)


OWN_PROCESSORS = (
    "sglang.srt.managers.multimodal_processor.import_processors",
    processes.import_own_processors,
    HookType.AROUND,
)
"""Of a server of this model: any other that loads the plugins may need SGLang's."""


ENDS = ("sglang.srt.configs.model_config.ModelConfig._get_hf_eos_token_id", ends.own_ends, HookType.AROUND)
"""It looks at the config itself: while that is being made, nobody can say yet which model the process serves."""


def import_own_model_alone() -> None:
    """Have SGLang import none of its own models and multimodal processors. Before ``load_plugins``."""
    processes.disable_other_models()
    HookRegistry.register(*OWN_PROCESSORS)


def register_all() -> None:
    """Register everything with SGLang; it applies the hooks right after."""
    for config in (SpeechLMConfig, BagpiperConfig):
        AutoConfig.register(config.model_type, config, exist_ok=True)
    register_radix_cache_backend(RADIX_BACKEND, prompt_radix_cache)
    if not torch.cuda.is_available():
        _register_cpu_attention("torch_native")  # the name that SGLang knows to be plain torch
    HookRegistry.register(*ENDS)
    for target, hook, kind in HOOKS:
        HookRegistry.register(target, for_speechlm_alone(hook, kind), kind)


def for_speechlm_alone(hook: Callable[..., Any], kind: HookType) -> Callable[..., Any]:
    """The hook of a process that serves SpeechLM; in any other process it changes nothing."""

    @functools.wraps(hook)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if serves_speechlm():
            return hook(*args, **kwargs)
        return args[0](*args[1:], **kwargs) if kind is HookType.AROUND else None

    return guarded


def _register_cpu_attention(name: str) -> None:
    sglangs = ATTENTION_BACKENDS[name]

    def create(runner: Any) -> Any:
        from sglang_speechlm.platform.attention import CpuAttention

        return CpuAttention(runner) if serves_speechlm() else sglangs(runner)

    register_attention_backend(name)(create)
