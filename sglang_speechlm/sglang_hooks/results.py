"""The results of a step: frames for SGLang to copy with the tokens, and the detokenizer's view of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sglang_speechlm.sglang_hooks.frames import FrameLog, FrameRows
from sglang_speechlm.sglang_hooks.req import is_audio, shadow_of
from sglang_speechlm.sglang_hooks.types import Req, ScheduleBatch
from sglang_speechlm.stage import FRAMES, UNCONDITIONAL_CACHED


@dataclass(frozen=True)
class StepFrames:
    """The frames of a step, int64 [N, num_stream]: SGLang's auxiliary output, first on the device, then on the host."""

    frames: torch.Tensor

    def copy_to_host(self, copy: Callable[[torch.Tensor], torch.Tensor]) -> StepFrames:
        """Copy the frames under the same event as the tokens."""
        return StepFrames(copy(self.frames))

    def consume(self, batch: ScheduleBatch, commits: Sequence[Any | None]) -> None:
        """Give each audio request its frame, if SGLang has taken its token: it drops those of retracted requests."""
        rows = FrameRows(self.frames)
        for i, (req, commit) in enumerate(zip(batch.reqs, commits, strict=True)):
            if commit is not None and is_audio(req):
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
