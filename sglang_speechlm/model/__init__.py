"""The SpeechLM model in SGLang: backbone, audio tower, streams, and the per-request state that they share."""

import os

_ENVIRONMENT = {
    "SGLANG_EXTERNAL_MODEL_PACKAGE": __name__,
    "SGLANG_EXTERNAL_MM_MODEL_ARCH": "SpeechLMForConditionalGeneration",
    "SGLANG_EXTERNAL_MM_PROCESSOR_PACKAGE": __name__,
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
