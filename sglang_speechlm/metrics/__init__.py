"""Prometheus metrics of this runtime, beside SGLang's own on GET /metrics (docs/metrics.md says what each means)."""

from sglang_speechlm.metrics.definitions import (
    AUDIO_SECONDS,
    FIRST_AUDIO_SECONDS,
    FRAMES,
    PAIRS_DEFERRED,
    PAIRS_REJECTED,
    PAIRS_RETRACTED,
    REPLIES,
    REPLY_SECONDS,
    TEXT_SECONDS,
)
from sglang_speechlm.metrics.metric import enable
from sglang_speechlm.metrics.watch import Mode, ReplyWatch

__all__ = [
    "AUDIO_SECONDS",
    "FIRST_AUDIO_SECONDS",
    "FRAMES",
    "PAIRS_DEFERRED",
    "PAIRS_REJECTED",
    "PAIRS_RETRACTED",
    "REPLIES",
    "REPLY_SECONDS",
    "TEXT_SECONDS",
    "Mode",
    "ReplyWatch",
    "enable",
]
