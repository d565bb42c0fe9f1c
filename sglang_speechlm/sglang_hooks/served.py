"""Whether this process serves SpeechLM."""

from __future__ import annotations

from sglang.srt.arg_groups.overrides import model_config_of
from sglang.srt.runtime_context import get_server_args

from sglang_speechlm.config import MODEL_TYPES


def serves_speechlm() -> bool:
    """Whether SGLang serves a SpeechLM checkpoint in this process, and no other model."""
    try:
        server_args = get_server_args()
    except ValueError:  # a process without a server, which uses SGLang's classes directly
        return False
    return bool(model_config_of(server_args).hf_config.model_type in MODEL_TYPES)
