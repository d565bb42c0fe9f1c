"""What SGLang's ``Req`` holds of ours."""

from __future__ import annotations

import zlib
from typing import Any

from sglang_speechlm.model.slots import AUDIO, CFG, CONTINUES, MIN_FRAMES, RequestEntry
from sglang_speechlm.sampler.backend import FRAMES


def is_audio(req: Any) -> bool:
    """Whether this request continues in frames."""
    custom = req.sampling_params.custom_params
    return bool(custom and custom.get(AUDIO))


def complaint(req: Any) -> str | None:
    """What is wrong with the parameters of ours that came with a request, or None; a step would fail on them."""
    params = req.sampling_params
    custom = params.custom_params or {}
    checks = (
        (AUDIO, False, lambda value: isinstance(value, bool), "true or false"),
        (CONTINUES, False, lambda value: isinstance(value, bool), "true or false"),
        (MIN_FRAMES, 0, lambda value: _is_int(value) and 0 <= value < 2**31, "an integer from 0 to 2147483647"),
        (CFG, 1.0, lambda value: _is_number(value) and 1 <= value <= 20, "a number from 1 to 20"),
    )
    for name, default, allowed, said in checks:
        if not allowed(value := custom.get(name, default)):
            return f"custom_params.{name} must be {said}; got {value!r}"
    if params.sampling_seed is not None and not -(2**63) <= params.sampling_seed < 2**63:
        return f"sampling_seed must fit in 64 bits; got {params.sampling_seed}"
    return None


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_int(value) or isinstance(value, float)


def continues(req: Any) -> bool:
    """Whether an earlier stage of the same answer has run."""
    return bool((req.sampling_params.custom_params or {}).get(CONTINUES))


def guidance(req: Any) -> float:
    """Guidance scale of this request; 1 is none."""
    return (req.sampling_params.custom_params or {}).get(CFG, 1.0) if is_audio(req) else 1.0


def shadow_of(req: Any) -> Any:
    """The unconditional branch that this request owns, or None."""
    return getattr(req, "speechlm_shadow", None)


def leader_of(req: Any) -> Any:
    """The request that owns this unconditional branch, or None."""
    return getattr(req, "speechlm_leader", None)


def spoken_frames(req: Any) -> list[list[int]]:
    """The frames that this request has given so far, [F][num_stream] ids, aligned with its output ids."""
    return (req.customized_info or {}).get(FRAMES, [])


def entry(req: Any) -> RequestEntry:
    """This request as it enters its slot. Without a seed of its own its draws are seeded by its id, on every rank."""
    params = req.sampling_params
    custom = params.custom_params or {}
    seed = params.sampling_seed
    leader = leader_of(req)
    return RequestEntry(
        slot=req.req_pool_idx,
        audio=is_audio(req),
        prompt_length=len(req.origin_input_ids),
        min_frames=custom.get(MIN_FRAMES, 0),
        top_k=params.top_k,
        seed=zlib.crc32(req.rid.encode()) if seed is None else seed,
        cfg=guidance(req),
        leader=None if leader is None else leader.req_pool_idx,
    )
