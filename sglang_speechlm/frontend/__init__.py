"""SpeechLM in SGLang's frontend language: scripts that write, fork and speak, run against a server's URL.

SGLang's language is imported when one of these names is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sglang_speechlm.frontend.backend import SpeechLM
    from sglang_speechlm.frontend.clips import audio
    from sglang_speechlm.frontend.errors import SpeechLMError
    from sglang_speechlm.frontend.speech import Speech, speak

__all__ = ["Speech", "SpeechLM", "SpeechLMError", "audio", "speak"]

_MODULES = {"SpeechLM": "backend", "audio": "clips", "SpeechLMError": "errors", "Speech": "speech", "speak": "speech"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value
