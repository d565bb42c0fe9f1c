"""A SpeechLM decoder in plain transformers, written as a reference for comparison: slow, clear, and free of SGLang.

``Reference`` is imported on first use, because transformers' models take seconds to import.
"""

from typing import TYPE_CHECKING, Any

import sglang_speechlm  # noqa: F401  (first: transformers' models import torchvision, which needs its operators)

from .frames import delay, undelay
from .request import Answer, Message, Part, Request, TeacherForced

if TYPE_CHECKING:
    from .decoder import Reference

__all__ = ["Answer", "Message", "Part", "Reference", "Request", "TeacherForced", "delay", "undelay"]


def __getattr__(name: str) -> Any:
    if name != "Reference":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .decoder import Reference

    return Reference
