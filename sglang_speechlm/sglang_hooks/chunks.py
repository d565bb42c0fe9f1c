"""Guided prompts in chunks: no prefill step computes more positions than the chunk size.

SGLang prefills one long request at a time in chunks, its ``chunked_req``. For a guided request that is the leader. Its
shadow is in the same steps, with as many positions at the same places, so that both end their prefill in one step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang.srt.mem_cache.base_prefix_cache import MatchPrefixParams
from sglang.srt.mem_cache.common import checkpoint_kv_cache
from sglang.srt.mem_cache.radix_cache import RadixKey

from sglang_speechlm.sglang_hooks.req import shadow_of
from sglang_speechlm.sglang_hooks.types import PrefillAdder, Req, ScheduleBatch, Scheduler


def begin_alike(tree_cache: Any, leader: Req, shadow: Req) -> None:
    """Start both branches at the last position cached for both; positions cached for only one are computed again."""
    begin = min(branch.prefix_len for branch in (leader, shadow))
    for branch in (leader, shadow):
        if branch.prefix_len > begin:
            key = RadixKey(branch.full_untruncated_fill_ids, branch.extra_key, limit=begin)
            branch.last_node = tree_cache.match_prefix(MatchPrefixParams(key=key)).last_device_node
            branch.prefix_len = branch.kv.cache_protected_len = begin


def continue_pair(add: Callable[..., Req | None], adder: PrefillAdder, req: Req) -> Req | None:
    """AROUND PrefillAdder.add_chunked_req: each branch gets half of the step's chunk."""
    shadow = shadow_of(req)
    if shadow is None:
        return add(adder, req)
    # The scheduler has done this for the leader.
    checkpoint_kv_cache(shadow, adder.tree_cache)
    shadow.init_next_round_input()
    budget = adder.memory_budget
    chunk, reserved = adder.rem_chunk_tokens, budget.total_offset
    assert chunk is not None
    unfinished = None
    for branch in (req, shadow):
        adder.rem_chunk_tokens = chunk // 2
        budget.total_offset = 0  # the room for both was there when the pair was admitted
        unfinished = add(adder, branch)
        reserved += budget.total_offset
    adder.rem_chunk_tokens = chunk - 2 * req.extend_len
    budget.total_offset = reserved
    if unfinished is None:
        return None
    shadow.inflight_middle_chunks += 1  # the scheduler does it for the leader
    return req


def follow_each_other(
    defer: Callable[[Scheduler, ScheduleBatch], bool], scheduler: Scheduler, running_batch: ScheduleBatch
) -> bool:
    """AROUND Scheduler._should_defer_prefill: nothing is decoded between the chunks of a prompt.

    SGLang keeps no memory free for a prompt's later chunks. Decoding rows could take it, and then the next chunk, which
    SGLang computes in any case, would find none and end the process.
    """
    return scheduler.chunked_req is None and defer(scheduler, running_batch)


def leave_out_shadows(
    batch: ScheduleBatch, reqs_to_exclude: list[Req] | None = None, **kwargs: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """BEFORE ScheduleBatch.filter_batch: a shadow does not join the running batch before its leader does."""
    leaders = reqs_to_exclude or []
    shadows = [shadow for req in leaders if (shadow := shadow_of(req)) is not None]
    return (batch, [*leaders, *shadows]), kwargs


def abort_pair(abort: Callable[[Scheduler], None], scheduler: Scheduler) -> None:
    """AROUND Scheduler.process_pending_chunked_abort: a leader that is aborted between two chunks takes its shadow."""
    req = scheduler._pending_chunked_abort_req
    shadow = shadow_of(req) if req is not None and req is scheduler.chunked_req else None
    abort(scheduler)
    if shadow is not None:
        scheduler.chunked_req = scheduler._pending_chunked_abort_req = shadow
        abort(scheduler)
