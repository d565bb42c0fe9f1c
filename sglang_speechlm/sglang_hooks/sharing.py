"""Prompts that several requests share, such as those of ``n`` answers, are computed once."""

from __future__ import annotations

from sglang_speechlm.sglang_hooks.types import PrefillAdder, Req

WORTH_WAITING = 256
"""Minimum number of shared positions for which a request waits for another to compute them, in one or two steps."""


def is_being_computed(adder: PrefillAdder, req: Req) -> bool:
    """Return whether another request computes the next positions of this one's prompt in this step or the last.

    The radix cache has them as soon as the result of that step has been processed. Otherwise,
    requests that begin together would all be computed before that.
    """
    end = req.prefix_len + WORTH_WAITING
    if req.output_ids or len(req.origin_input_ids) <= end or not adder.tree_cache.supports_prefix_sharing():
        return False
    computing = [*adder.can_run_list, *(other for other in adder.running_batch.reqs if not other.output_ids)]
    return any(other.origin_input_ids[:end] == req.origin_input_ids[:end] for other in computing)
