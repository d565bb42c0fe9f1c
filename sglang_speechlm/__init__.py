"""A serving runtime for SpeechLM (released as Bagpiper) on stock SGLang.

The names below are the public API for programs that use a server. They are imported on first use, so that
``import sglang_speechlm`` imports neither torch nor SGLang. ``speechlm serve`` starts a server.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sglang_speechlm.interrupt import end_without_traceback
from sglang_speechlm.platform import torchvision_operators, transformers_imports

if TYPE_CHECKING:
    from sglang_speechlm import frontend
    from sglang_speechlm.config import SpeechLMConfig
    from sglang_speechlm.frontend import Speech, SpeechLM, SpeechLMError, speak

__version__ = "0.1.0"

__all__ = ["Speech", "SpeechLM", "SpeechLMConfig", "SpeechLMError", "__version__", "frontend", "speak"]

_MODULES = {
    "Speech": "sglang_speechlm.frontend",
    "SpeechLM": "sglang_speechlm.frontend",
    "SpeechLMError": "sglang_speechlm.frontend",
    "speak": "sglang_speechlm.frontend",
    "SpeechLMConfig": "sglang_speechlm.config",
}


def __getattr__(name: str) -> Any:
    if name == "frontend":
        return import_module("sglang_speechlm.frontend")
    if name in _MODULES:
        value = globals()[name] = getattr(import_module(_MODULES[name]), name)
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


if sys.argv[:1] == ["-m"]:  # one of its programs is starting, and Python has not located it yet
    end_without_traceback()

# SGLang and transformers import torchvision, which may lack its operators.
torchvision_operators.define_when_imported()
transformers_imports.import_less()
