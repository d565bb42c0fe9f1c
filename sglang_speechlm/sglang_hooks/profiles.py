"""Profiles of PyTorch's profiler, whose failures must not end the scheduler."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sglang.srt.managers.io_struct import ProfileReq, ProfileReqOutput

from sglang_speechlm.sglang_hooks.types import ProfilerManager

__all__ = ["ProfileReq", "survive_failure"]

logger = logging.getLogger(__name__)


def survive_failure(act: Callable[..., Any], manager: ProfilerManager, stage: Any = None) -> Any:
    """AROUND SchedulerProfilerManager._start_profile and ._stop_profile: a profile that fails is abandoned.

    A file cannot be written, for example, because its folder does not exist or the disk is full.
    """
    try:
        return act(manager, stage)
    except Exception as error:
        logger.error("The profile failed and was abandoned: %s", error)
        with suppress(Exception):
            manager.torch_profiler.stop()
        manager.torch_profiler = None
        manager.profile_in_progress = manager.profile_by_stage = False
        manager.profiler_start_forward_ct = manager.profiler_target_forward_ct = None
        return ProfileReqOutput(success=False, message=f"the profile failed and was abandoned: {error}")
