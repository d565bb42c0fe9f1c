"""What a conversion is told besides its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sglang_speechlm.config.speechlm import AudioFrontend


@dataclass(frozen=True)
class ConversionSettings:
    """What neither the tensors nor the training config say."""

    n_window: int = 50
    """Half the mel frames in a chunk of the audio encoder; 50 is what the released Qwen3-Omni encoder has."""
    n_window_infer: int = 800
    """Mel frames that attend to each other in the audio encoder."""
    audio_heads: int | None = None
    """Attention heads of the audio encoder; by default 64 dimensions a head, as in Qwen3-Omni."""
    audio_frontend: AudioFrontend = "bagpiper"
    dtype: Literal["stored", "float32", "bfloat16"] = "stored"
    """Of all tensors but the codec's; "stored" takes the dtype of the token embedding."""
    xcodec: Path | None = None
    """Directory whose config.json describes the checkpoint's codec, where it is not the released Xcodec."""
    shard_bytes: int = 2 * 1024**3
