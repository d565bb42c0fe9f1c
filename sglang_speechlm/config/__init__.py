"""A checkpoint's config: sizes, id ranges and defaults."""

from sglang_speechlm.config.ids import Ids
from sglang_speechlm.config.speechlm import MODEL_TYPES, BagpiperConfig, SpeechLMConfig

__all__ = ["MODEL_TYPES", "BagpiperConfig", "Ids", "SpeechLMConfig"]
