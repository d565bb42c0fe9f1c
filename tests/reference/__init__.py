"""A SpeechLM decoder in plain transformers, written as a reference for comparison: slow, clear, and free of SGLang."""

import sglang_speechlm  # noqa: F401  (first: transformers' models import torchvision, which needs its operators)

from .decoder import Reference
from .frames import delay, undelay
from .request import Answer, Message, Part, Request, TeacherForced

__all__ = ["Answer", "Message", "Part", "Reference", "Request", "TeacherForced", "delay", "undelay"]
