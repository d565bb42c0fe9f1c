"""The one place that touches SGLang's internals (0.5.23): ``HOOKS`` lists every hook.

A new SGLang version affects this folder and the classes that SGLang calls through its extension points
(``platform/``, ``model/speechlm.py``, ``sampler/backend.py``, ``prompt/processor.py``). Nothing else imports
``sglang.srt``.
"""

from __future__ import annotations

import os

SGLANG_VERSION = "0.5.23"

RADIX_BACKEND = "speechlm"
"""Value of SGLang's --radix-cache-backend for this package's radix cache."""

GRAMMAR_BACKEND = "speechlm"
"""Value of SGLang's --grammar-backend for this package's grammars."""

_ENVIRONMENT = {
    "SGLANG_EXTERNAL_MODEL_PACKAGE": "sglang_speechlm.model",
    "SGLANG_EXTERNAL_MM_MODEL_ARCH": "SpeechLMForConditionalGeneration",
    "SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE": "sglang_speechlm.prompt",
}
"""Variables by which SGLang finds a model outside its tree; its modules read them when they are first imported."""


def announce(*, override: bool = False) -> None:
    """Tell SGLang, in this process and its children, where the SpeechLM model is.

    Args:
        override: whether to replace existing values, which name another model outside SGLang's tree.
    """
    for name, value in _ENVIRONMENT.items():
        if override or not os.environ.get(name):
            os.environ[name] = value


def register() -> None:
    """Register the plugin: entry point of group ``sglang.srt.plugins``, called in every process of SGLang's."""
    from sglang_speechlm.sglang_hooks.registry import register_all

    register_all()
