"""The radix cache keeps prompts; the frames of an answer never enter it.

The tree's keys are ids of stream 0, but a frame's KV depends on all eight streams: two answers may share the first
stream but not the others. Therefore only the prompt of a request is inserted, never its frames.
"""

from __future__ import annotations

from typing import Any

from sglang.srt.mem_cache.base_prefix_cache import BasePrefixCache
from sglang.srt.mem_cache.radix_cache import RadixCache
from sglang.srt.mem_cache.registry import TreeCacheBuildContext, default_radix_cache_factory
from typing_extensions import override

from sglang_speechlm.sglang_hooks.req import is_audio
from sglang_speechlm.sglang_hooks.served import serves_speechlm
from sglang_speechlm.sglang_hooks.types import Req


class PromptRadixCache(RadixCache):
    """SGLang's radix cache, into which an audio request inserts its prompt only."""

    @override
    def checkpoint(self, req: Req, *, up_to: int, **kwargs: Any) -> None:
        """Insert the first ``up_to`` positions of a request, unless there are frames among them.

        Frames then stay private to the request: those that it has drawn, and those that it recomputes after a
        retraction. Its prompt was inserted when it was prefilled.
        """
        if not is_audio(req) or up_to <= len(req.origin_input_ids):
            super().checkpoint(req, up_to=up_to, **kwargs)


def prompt_radix_cache(context: TreeCacheBuildContext) -> BasePrefixCache:
    """Create the cache for SGLang's registry: SGLang's own choice without a radix cache or for another model."""
    if context.disable_radix_cache or not serves_speechlm():
        return default_radix_cache_factory(context)
    return PromptRadixCache(context.params)
