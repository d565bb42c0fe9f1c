"""The radix cache keeps prompts; the frames of an answer never enter it.

The tree's keys are ids of stream 0, but a frame's KV depends on all eight streams: two answers may share the first
stream but not the others. Therefore only the prompt of a request is inserted, never its frames.
"""

from __future__ import annotations

from typing import Any

import torch
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
    def cache_finished_req(self, req: Req, is_insert: bool = True, **kwargs: Any) -> None:
        """Free the frames; the prompt was inserted when its prefill ended."""
        super().cache_finished_req(req, is_insert=is_insert and not is_audio(req), **kwargs)

    @override
    def cache_unfinished_req(self, req: Req, chunked: bool = False) -> None:
        """Keep a prefill with frames (of a retracted request) private to the request."""
        length = len(req.get_fill_ids())
        if not self.disable and is_audio(req) and length > len(req.origin_input_ids):
            indices = self.req_to_token_pool.req_to_token[req.req_pool_idx, :length]
            req.prefix_indices = indices.to(dtype=torch.int64, copy=True)
            return
        super().cache_unfinished_req(req, chunked=chunked)


def prompt_radix_cache(context: TreeCacheBuildContext) -> BasePrefixCache:
    """Create the cache for SGLang's registry: SGLang's own choice without a radix cache or for another model."""
    if context.disable_radix_cache or not serves_speechlm():
        return default_radix_cache_factory(context)
    return PromptRadixCache(context.params)
