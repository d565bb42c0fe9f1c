"""Default decoding values that the authors of the checkpoints published."""

from __future__ import annotations

from typing import Any

TABLE_10: dict[str, Any] = {
    "text_temperature": 0.6,
    "text_topk": 20,
    "text_max_tokens": 2048,
    "audio_temperature": 0.8,
    "audio_topk": 20,
    "audio_cfg": 3.0,
    "audio_min_frames": 50,
    "audio_max_frames": 2048,
}
"""From the Bagpiper paper, named as the fields of ``SpeechLMConfig``, for releases without values of their own."""

TABLE_10_NAME = "Table 10 of the Bagpiper paper"
