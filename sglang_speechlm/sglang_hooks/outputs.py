"""Decide which requests send their output to the HTTP process after a step."""

from __future__ import annotations

from typing import Any

from sglang_speechlm.sglang_hooks.req import leader_of, stage_of
from sglang_speechlm.sglang_hooks.types import Req


def send_due(
    streamer: Any, reqs: list[Req], return_logprob: bool, skip_req: Req | None = None, **kwargs: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """BEFORE _stream_output_generation: send the leaders' output only, and frames when they complete a piece of sound.

    Each output costs the event loop of the HTTP process as much as a text id, however many frames it has. SGLang's
    stream_interval does not change during a request, while pieces grow.

    SGLang skips one request whose prefill is unfinished: of two branches the last, which is the shadow.
    """
    due = [req for req in reqs if leader_of(req) is None and _is_due(req)]
    return (streamer, due, return_logprob, skip_req and (leader_of(skip_req) or skip_req)), kwargs


def _is_due(req: Req) -> bool:
    stage = stage_of(req)
    if not stage.pieces or req.finished_reason is not None:
        return True
    frames = len(req.output_ids)
    if frames < getattr(req, "speechlm_due", 1):  # the first frame is sent at once: it shows that the sound has begun
        return False
    req.speechlm_due = stage.next_output(frames)
    return True
