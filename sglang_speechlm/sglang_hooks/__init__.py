"""The one place where SGLang is touched: every hook on an internal of SGLang 0.5.17 is listed in ``HOOKS``.

A new SGLang version is this folder's work, and that of the classes that SGLang calls by contract (``platform/``,
``model/speechlm.py``, ``sampler/backend.py``, ``prompt/processor.py``). Nothing else imports ``sglang.srt``.
"""

from __future__ import annotations

import os

SGLANG_VERSION = "0.5.17"

RADIX_BACKEND = "speechlm"
"""Value of SGLang's --radix-cache-backend for this package's radix cache."""

_ENVIRONMENT = {
    "SGLANG_EXTERNAL_MODEL_PACKAGE": "sglang_speechlm.model",
    "SGLANG_EXTERNAL_MM_MODEL_ARCH": "SpeechLMForConditionalGeneration",
    "SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE": "sglang_speechlm.prompt",
}
"""How SGLang finds a model from outside its tree: variables that its modules read when they are first imported."""


def announce(*, override: bool = False) -> None:
    """Tell SGLang, in this process and in those it starts, where the SpeechLM model is.

    Args:
        override: replace what somebody else has set, who then serves another model from outside SGLang's tree.
    """
    for name, value in _ENVIRONMENT.items():
        if override or not os.environ.get(name):
            os.environ[name] = value


def register() -> None:
    """Entry point of group ``sglang.srt.plugins``: called by SGLang in the launcher, the engine and the schedulers."""
    from sglang_speechlm.sglang_hooks.registry import register_all

    register_all()
