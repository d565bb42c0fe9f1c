"""Prometheus metrics of this runtime, in addition to SGLang's own on GET /metrics (see docs/metrics.md)."""

from sglang_speechlm.metrics.definitions import (
    AUDIO_SECONDS,
    CLIPS,
    CLIPS_ENCODED,
    CODEC_RESTARTS,
    CODEC_SLOTS,
    CODEC_STREAMS,
    FIRST_AUDIO_SECONDS,
    FIRST_TEXT_SECONDS,
    FRAMES,
    PAIRS_DEFERRED,
    PAIRS_REJECTED,
    PAIRS_RETRACTED,
    REPLIES,
    REPLIES_RUNNING,
    REPLY_SECONDS,
    STAGES_RUNNING,
    TEXT_SECONDS,
)
from sglang_speechlm.metrics.metric import enable
from sglang_speechlm.metrics.watch import Mode, ReplyWatch

__all__ = [
    "AUDIO_SECONDS",
    "CLIPS",
    "CLIPS_ENCODED",
    "CODEC_RESTARTS",
    "CODEC_SLOTS",
    "CODEC_STREAMS",
    "FIRST_AUDIO_SECONDS",
    "FIRST_TEXT_SECONDS",
    "FRAMES",
    "PAIRS_DEFERRED",
    "PAIRS_REJECTED",
    "PAIRS_RETRACTED",
    "REPLIES",
    "REPLIES_RUNNING",
    "REPLY_SECONDS",
    "STAGES_RUNNING",
    "TEXT_SECONDS",
    "Mode",
    "ReplyWatch",
    "enable",
]
