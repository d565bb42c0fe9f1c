"""The ids that end a text."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sglang_speechlm.config import SpeechLMConfig


def own_ends(original: Callable[..., Any], model_config: Any, *args: Any, **kwargs: Any) -> Any:
    """AROUND ModelConfig._get_hf_eos_token_id: a fork's directory may contain Qwen's generation_config.json, whose
    end ids are words in SpeechLM's id space.
    """
    config = model_config.hf_config
    return {config.ids.eos} if isinstance(config, SpeechLMConfig) else original(model_config, *args, **kwargs)
