"""The settings of a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sglang_speechlm.config.speechlm import AudioFrontend


@dataclass(frozen=True)
class ConversionSettings:
    """Settings that follow neither from the tensors nor from the training config."""

    n_window: int = 50
    """Half the mel frames in a chunk of the audio encoder; 50 as in the released Qwen3-Omni encoder."""
    n_window_infer: int = 800
    """Mel frames that attend to each other in the audio encoder."""
    audio_heads: int | None = None
    """Attention heads of the audio encoder; by default 64 dimensions each, as in Qwen3-Omni."""
    audio_frontend: AudioFrontend = "bagpiper"
    dtype: Literal["stored", "float32", "bfloat16"] = "stored"
    """The dtype of all tensors but the codec's; "stored" is that of the token embedding."""
    xcodec: Path | None = None
    """Directory whose config.json describes the checkpoint's codec, if it is not the released Xcodec."""
    shard_bytes: int = 2 * 1024**3
