"""Guided requests as pairs: a leader, which clients see, and the shadow that it owns.

The shadow is the unconditional branch of classifier-free guidance: one pad for every position of the leader's prompt
except the last, which is the real <audio> id, then the leader's own frames. The shadow is never in the waiting queue,
so half a pair cannot be scheduled; the hooks below admit, retract, resume, abort and end the two together.
"""

from __future__ import annotations

import copy
from array import array
from collections.abc import Callable
from typing import Any

from sglang.srt.managers import schedule_batch
from sglang.srt.managers.schedule_policy import CLIP_MAX_NEW_TOKENS, AddReqResult

from sglang_speechlm import metrics
from sglang_speechlm.sglang_hooks.chunks import begin_alike
from sglang_speechlm.sglang_hooks.req import leader_of, read_stage, refuse, shadow_of, stage_of
from sglang_speechlm.sglang_hooks.sharing import is_being_computed
from sglang_speechlm.sglang_hooks.types import PrefillAdder, Req, ScheduleBatch, Scheduler
from sglang_speechlm.stage import PAIR_MARGIN

SHADOW_SUFFIX = "::u"
"""Suffix of a shadow's id after its leader's: SGLang aborts all ids with a given prefix, and so aborts both.

No other id begins with a leader's: the program and /generate build all ids around a random part of fixed length.
"""

_BUDGETS = (
    "rem_input_tokens", "rem_chunk_tokens", "new_chunked_req", "log_hit_tokens", "log_device_hit_tokens",
    "log_host_hit_tokens", "log_storage_hit_tokens", "log_input_tokens", "log_replay_tokens",
    "reprocessed_log_hit_tokens", "reprocessed_log_input_tokens",
)  # fmt: skip
"""The attributes that PrefillAdder changes when it adds a request."""

_MEMORY_BUDGETS = ("total_offset", "current_offset")
"""The same for its memory budget."""


def queue_request(queue: Callable[..., None], scheduler: Scheduler, req: Req, is_retracted: bool = False) -> None:
    """AROUND Scheduler._add_request_to_queue: a guided request gets its shadow; a shadow is never queued itself.

    Requests that would fail a step, or could never run, are refused here.
    """
    if leader_of(req) is not None:
        return
    if not is_retracted and req.to_finish is None and req.finished_reason is None:
        if refusal := read_stage(req) or _cannot_fit(scheduler, req):
            refuse(req, refusal)
        elif stage_of(req).is_guided:
            _give_shadow(req)
    limit = scheduler.max_queued_requests
    if is_retracted or stage_of(req).continues:
        # Its answer has begun: a full queue refuses new answers, not stages of answers that it has accepted.
        scheduler.max_queued_requests = None
    try:
        queue(scheduler, req, is_retracted)
    finally:
        scheduler.max_queued_requests = limit


def _cannot_fit(scheduler: Scheduler, req: Req) -> str | None:
    """Return why this request, if guided, could never run, or None; limit its length to what the memory can hold."""
    if not stage_of(req).is_guided:
        return None
    if scheduler.max_running_requests < 2:
        metrics.PAIRS_REJECTED.add()
        return "cfg: guidance needs two rows of a batch; this server has --max-running-requests 1"
    prompt = len(req.origin_input_ids)
    room = (scheduler.max_total_num_tokens - PAIR_MARGIN) // 2 - prompt
    if room < 1:
        metrics.PAIRS_REJECTED.add()
        return (
            f"cfg: a guided prompt of {prompt} tokens needs twice that many positions and a frame; "
            f"the KV cache has {scheduler.max_total_num_tokens}"
        )
    req.sampling_params.max_new_tokens = min(req.sampling_params.max_new_tokens, room)
    return None


def _give_shadow(leader: Req) -> None:
    prompt = leader.origin_input_ids
    params = copy.copy(leader.sampling_params)
    params.custom_params = None  # every Req adds itself to them, and the stage has been parsed
    shadow = schedule_batch.Req(
        rid=leader.rid + SHADOW_SUFFIX,
        origin_input_text="",
        origin_input_ids=array("q", [0] * (len(prompt) - 1) + [prompt[-1]]),
        sampling_params=params,
        eos_token_ids=leader.eos_token_ids,
        vocab_size=leader.vocab_size,
        priority=leader.priority,
    )
    shadow.tokenizer = leader.tokenizer
    shadow.speechlm_stage = leader.speechlm_stage
    shadow.speechlm_leader = leader
    leader.speechlm_shadow = shadow


def admit_pair(
    add: Callable[..., AddReqResult],
    adder: PrefillAdder,
    req: Req,
    has_chunked_req: bool,
    truncation_align_size: int | None,
) -> AddReqResult:
    """AROUND PrefillAdder.add_one_req: both branches or neither, in one step, or in chunks side by side."""
    if is_being_computed(adder, req):
        return AddReqResult.OTHER
    shadow = shadow_of(req)
    if shadow is None:
        return add(adder, req, has_chunked_req, truncation_align_size)
    rows = min(
        adder.max_running_requests - len(adder.running_batch.reqs),
        adder.tree_cache.req_to_token_pool.available_size(),
    )
    if len(adder.can_run_list) + 2 > rows:
        if len(adder.can_run_list) + 1 == rows:
            _count_deferred(req)
        return AddReqResult.OTHER
    shadow.init_next_round_input(adder.tree_cache)
    if is_being_computed(adder, shadow):
        return AddReqResult.OTHER
    before = {name: getattr(adder, name) for name in _BUDGETS}
    memory_before = {name: getattr(adder.memory_budget, name) for name in _MEMORY_BUDGETS}
    chunk = adder.rem_chunk_tokens
    needed = _positions_left(req) + _positions_left(shadow)
    half = chunk // 2 if chunk is not None and needed > chunk else None
    if half is not None:
        if adder.can_run_list:
            return AddReqResult.OTHER  # the chunks are divided between the two branches alone
        begin_alike(adder.tree_cache, req, shadow)
        adder.rem_chunk_tokens = half
    result = add(adder, req, has_chunked_req, truncation_align_size)
    if not _was_added(adder, req):
        adder.rem_chunk_tokens = chunk
        return _only_for_now(adder, result)
    if half is not None:
        adder.rem_chunk_tokens = half
        adder.memory_budget.total_offset += _positions_left(req) - req.extend_len + _ids_left(req)
    else:
        adder.memory_budget.total_offset -= _reserved_twice(req)
        # The leader's locks may have changed which prefix the tree can lend.
        shadow.init_next_round_input(adder.tree_cache)
    result = add(adder, shadow, has_chunked_req, truncation_align_size)
    if _was_added(adder, shadow):
        if half is not None:
            adder.new_chunked_req = req
            shadow.inflight_middle_chunks += 1  # the scheduler does it for the leader
            return AddReqResult.OTHER
        if adder.new_chunked_req is before["new_chunked_req"]:
            return result
    for branch in (shadow, req):
        if _was_added(adder, branch):
            adder.can_run_list.pop()
            adder.tree_cache.unlock(branch.lock)
            branch.lock = None
    for name, value in before.items():
        setattr(adder, name, value)
    for name, value in memory_before.items():
        setattr(adder.memory_budget, name, value)
    _count_deferred(req)
    return _only_for_now(adder, AddReqResult.NO_TOKEN)


def _positions_left(req: Req) -> int:
    """Return how many positions of a request are not in the KV cache."""
    return len(req.full_untruncated_fill_ids) - req.prefix_len


def _ids_left(req: Req) -> int:
    """Return how many ids PrefillAdder expects from a request."""
    return min(max(req.sampling_params.max_new_tokens - len(req.output_ids), 0), CLIP_MAX_NEW_TOKENS)


def _was_added(adder: PrefillAdder, req: Req) -> bool:
    return bool(adder.can_run_list) and adder.can_run_list[-1] is req


def _reserved_twice(req: Req) -> int:
    """Return how much PrefillAdder reserves for a resumed request's answer that is already part of its prefill.

    With this double reservation, two branches could need more than a pool into which they fit, and wait forever.
    """
    return min(req.sampling_params.max_new_tokens, CLIP_MAX_NEW_TOKENS) - _ids_left(req)


def _only_for_now(adder: PrefillAdder, result: AddReqResult) -> AddReqResult:
    """Replace NO_TOKEN if nothing runs: it makes SGLang wait for a running request to end, which would be forever."""
    return result if adder.running_batch.reqs else AddReqResult.OTHER


def _count_deferred(leader: Req) -> None:
    """Count a deferred request once, however many steps it waits."""
    if not getattr(leader, "speechlm_deferred", False):
        leader.speechlm_deferred = True
        metrics.PAIRS_DEFERRED.add()


def retract_pairs(retract: Callable[..., Any], batch: ScheduleBatch) -> tuple[list[Req], float, list[Req]]:
    """AROUND ScheduleBatch.retract_decode: if one branch is retracted, so is the other."""
    retracted, ratio, aborted = retract(batch)
    gone = {id(req) for req in (*retracted, *aborted)}
    left_behind = [i for i, req in enumerate(batch.reqs) if id(_partner(req)) in gone]
    if left_behind:
        retracted.extend(batch.reqs[i] for i in left_behind)
        kept = [i for i in range(len(batch.reqs)) if i not in left_behind]
        for i in left_behind:
            batch.release_req(i, len(kept))
        batch.filter_batch(keep_indices=kept)
    for i, req in enumerate(aborted):
        partner = _partner(req)
        if partner is not None:
            # A branch cannot fit even alone: the pair ends, and the client gets the error as the leader's.
            leader = leader_of(req) or req
            leader.to_finish = req.to_finish
            aborted[i] = leader
            retracted = [other for other in retracted if other is not partner and other is not req]
    metrics.PAIRS_RETRACTED.add(sum(shadow_of(req) is not None for req in retracted))
    return retracted, ratio, aborted


def finish_together(_scheduler: Scheduler, batch: ScheduleBatch, _result: Any) -> None:
    """BEFORE Scheduler.process_batch_result: if one branch is ended from outside, end the other in the same step."""
    for leader in batch.reqs:
        shadow = shadow_of(leader)
        if shadow is not None and (leader.to_finish or shadow.to_finish):
            leader.to_finish = shadow.to_finish = leader.to_finish or shadow.to_finish


def _partner(req: Req) -> Req | None:
    return shadow_of(req) or leader_of(req)
