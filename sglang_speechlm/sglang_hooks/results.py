"""Hooks after a step: copy the frames to the host with the tokens, and pass them on with the request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang.srt.managers.utils import _async_d2h

from sglang_speechlm.sglang_hooks.frames import FrameLog, FrameRows
from sglang_speechlm.sglang_hooks.req import is_audio, shadow_of
from sglang_speechlm.sglang_hooks.types import Req
from sglang_speechlm.stage import FRAMES, UNCONDITIONAL_CACHED


def copy_frames(result: Any, *_args: Any, **_kwargs: Any) -> None:
    """BEFORE GenerationBatchResult.copy_to_cpu: copy the frames under the same event as the tokens."""
    info = getattr(result.logits_output, "customized_info", None)
    if info is not None:
        info[FRAMES] = _async_d2h(info[FRAMES])


def collect_frames(_collect: Any, _processor: Any, i: int, req: Req, logits_output: Any) -> None:
    """IN PLACE OF _maybe_collect_customized_info: convert the frames once per batch, and skip text requests."""
    info = getattr(logits_output, "customized_info", None)
    if info is None or not is_audio(req):
        return
    rows = info[FRAMES]
    if not isinstance(rows, FrameRows):
        rows = info[FRAMES] = FrameRows(rows)
    if req.customized_info is None:
        req.customized_info = {FRAMES: FrameLog(rows.num_stream)}
    req.customized_info[FRAMES].append(rows[i])
    if (shadow := shadow_of(req)) is not None:
        req.customized_info.setdefault(UNCONDITIONAL_CACHED, []).append(shadow.cached_tokens)


def skip_detokenizing_frames(detokenize: Callable[[Req], Any], req: Req) -> Any:
    """AROUND Req.init_incremental_detokenize: pass no codec ids to the detokenizer."""
    if not is_audio(req):
        return detokenize(req)
    req.sampling_params.no_stop_trim = True  # else the detokenizer would trim the final id from an empty text
    return [], 0
