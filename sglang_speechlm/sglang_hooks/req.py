"""SpeechLM's data on SGLang's ``Req``: its stage, and its partner in a guided pair."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from sglang_speechlm.model.slots import RequestEntry
from sglang_speechlm.sglang_hooks.frames import FrameLog
from sglang_speechlm.sglang_hooks.types import Req
from sglang_speechlm.stage import FRAMES, TEXT_STAGE, Stage


def read_stage(req: Req) -> str | None:
    """Parse the stage of a request and store it on the request.

    Returns:
        The reason if its parameters are invalid and would fail a step, else None.
    """
    custom, seed = req.sampling_params.custom_params, req.sampling_params.sampling_seed
    if isinstance(custom, dict):
        # SGLang's Req adds itself to these parameters for custom logit processors.
        custom = {name: value for name, value in custom.items() if name != "__req__"}
    try:
        req.speechlm_stage = Stage.parse(custom)
    except ValueError as error:
        return str(error)
    if seed is not None and not -(2**63) <= seed < 2**63:
        return f"sampling_seed: must fit in 64 bits; got {seed}"
    return None


def refuse(req: Req, reason: str) -> None:
    """End a request before it runs; SGLang still runs one step for it, as a text of one id."""
    req.speechlm_stage = TEXT_STAGE
    req.sampling_params.sampling_seed = None
    req.set_finish_with_abort(reason)


def stage_of(req: Req) -> Stage:
    """Return the stage of a queued request; a request that was never queued is text."""
    return getattr(req, "speechlm_stage", TEXT_STAGE)


def is_audio(req: Req) -> bool:
    """Whether this request generates frames."""
    return stage_of(req).audio


def shadow_of(req: Req) -> Req | None:
    """Return the unconditional branch that this request owns, or None."""
    return getattr(req, "speechlm_shadow", None)


def leader_of(req: Req) -> Req | None:
    """Return the request that owns this unconditional branch, or None."""
    return getattr(req, "speechlm_leader", None)


def spoken_frames(req: Req) -> npt.NDArray[np.int32]:
    """Return the frames of an audio request that has some, int32 [F, num_stream], aligned with its output ids."""
    assert req.customized_info is not None
    log: FrameLog = req.customized_info[FRAMES]
    return log.array()


def entry(req: Req) -> RequestEntry:
    """Return this request's values for its slot. Without a seed, its id seeds its draws, the same on every rank."""
    params = req.sampling_params
    stage = stage_of(req)
    leader = leader_of(req)
    return RequestEntry(
        slot=req.kv.req_pool_idx,
        audio=stage.audio,
        prompt_length=len(req.origin_input_ids),
        min_frames=stage.min_frames,
        top_k=params.top_k,
        seed=zlib.crc32(req.rid.encode()) if params.sampling_seed is None else params.sampling_seed,
        cfg=stage.cfg if stage.is_guided else 1.0,
        leader=None if leader is None else leader.kv.req_pool_idx,
    )
