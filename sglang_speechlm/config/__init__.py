"""What a checkpoint says of itself: its sizes, its id ranges and its defaults."""

from sglang_speechlm.config.ids import Ids
from sglang_speechlm.config.speechlm import SpeechLMConfig

__all__ = ["Ids", "SpeechLMConfig"]
