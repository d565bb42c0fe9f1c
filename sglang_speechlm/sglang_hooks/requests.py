"""What SGLang's ``Req`` holds of ours."""

from __future__ import annotations

import zlib
from typing import Any

from sglang_speechlm.model.requests import AUDIO, MIN_FRAMES, RequestEntry
from sglang_speechlm.sampler.backend import FRAMES


def is_audio(req: Any) -> bool:
    """Whether this request continues in frames."""
    custom = req.sampling_params.custom_params
    return bool(custom and custom.get(AUDIO))


def spoken_frames(req: Any) -> list[list[int]]:
    """The frames that this request has given so far, [F][num_stream] ids, aligned with its output ids."""
    return (req.customized_info or {}).get(FRAMES, [])


def entry(req: Any) -> RequestEntry:
    """This request as it enters its slot. Without a seed of its own its draws are seeded by its id, on every rank."""
    params = req.sampling_params
    custom = params.custom_params or {}
    seed = params.sampling_seed
    return RequestEntry(
        slot=req.req_pool_idx,
        audio=is_audio(req),
        prompt_length=len(req.origin_input_ids),
        min_frames=custom.get(MIN_FRAMES, 0),
        top_k=params.top_k,
        seed=zlib.crc32(req.rid.encode()) if seed is None else seed,
    )
