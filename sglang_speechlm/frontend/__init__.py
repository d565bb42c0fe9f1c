"""SpeechLM in SGLang's frontend language: scripts that write, fork and speak, run against a server by its URL."""

from sglang_speechlm.frontend.backend import SpeechLM
from sglang_speechlm.frontend.clips import audio
from sglang_speechlm.frontend.errors import SpeechLMError
from sglang_speechlm.frontend.speech import Speech, speak

__all__ = ["Speech", "SpeechLM", "SpeechLMError", "audio", "speak"]
