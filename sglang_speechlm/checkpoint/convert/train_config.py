"""Read a training config (YAML).

It reads these keys of ESPnet's ``espnet2/speechlm`` config; all but ``multimodal_io`` may be absent::

    job_type: speechlm
    multimodal_io:                  # the order gives the order of the id ranges
        text:
            tokenizer_name: Qwen/Qwen3-8B-Base
        discrete_audio:
            codec_choice: Xcodec
            codec_hf_model_tag: hf-audio/xcodec-hubert-general
            ssl_choice: null
            delay_interleave: true
        continuous_audio:
            encoder_choice: huggingface
            encoder_hf_model_tag: Qwen/Qwen3-Omni-30B-A3B-Instruct
    model:
        model_hf_tag: Qwen/Qwen3-8B-Base
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sglang_speechlm.config.files import CheckpointError, read_yaml, shown

_REQUIRED = {
    "job_type": "speechlm",
    "multimodal_io.discrete_audio.codec_choice": "Xcodec",
    "multimodal_io.discrete_audio.ssl_choice": None,
    "multimodal_io.discrete_audio.delay_interleave": True,
    "multimodal_io.continuous_audio.encoder_choice": "huggingface",
}
_ENCODER = "multimodal_io.continuous_audio.encoder_hf_model_tag"
_CODEC_TAG = "multimodal_io.discrete_audio.codec_hf_model_tag"
_TOKENIZER = "multimodal_io.text.tokenizer_name"
_BACKBONE = "model.model_hf_tag"
_MIXTURE = re.compile(r"-A\d+(\.\d+)?B|moe", re.IGNORECASE)
"""Recognises mixture-of-experts models by their names, without owner or folders, such as Qwen3-30B-A3B."""


@dataclass(frozen=True)
class TrainConfig:
    """The values that a conversion takes from the training config.

    Attributes:
        xcodec_hf_model_tag: the codec's name on the hub.
        tokenizer_name: the tokenizer's name on the hub.
    """

    xcodec_hf_model_tag: str | None = None
    tokenizer_name: str | None = None


def read_train_config(path: Path | None) -> TrainConfig:
    """Read the YAML file, and refuse models that this runtime does not serve; without a file, all values are None.

    Raises:
        CheckpointError: if it cannot be read, is not a training config, or belongs to another kind of model.
    """
    if path is None:
        return TrainConfig()
    content = read_yaml(path)
    if not isinstance(content.get("multimodal_io"), dict):
        raise CheckpointError(f"{path} has no mapping multimodal_io: not a SpeechLM training config")
    for key, allowed in _REQUIRED.items():
        value = _at(content, key, default=allowed)
        if value != allowed:
            raise CheckpointError(f"{path}: {key} is {shown(value)}; allowed: {allowed!r}")
    discrete = [name for name in content["multimodal_io"] if name != "continuous_audio"]
    if discrete != ["text", "discrete_audio"]:
        raise CheckpointError(
            f"{path}: multimodal_io has the discrete modalities {shown(discrete)}; "
            "allowed: ['text', 'discrete_audio'], in this order"
        )
    encoder = _at(content, _ENCODER, default="Qwen3-Omni")
    if "Qwen3-Omni" not in str(encoder):
        raise CheckpointError(f"{path}: {_ENCODER} is {shown(encoder)}; allowed: a Qwen3-Omni model")
    backbone = _at(content, _BACKBONE, default="Qwen3")
    if _MIXTURE.search(Path(str(backbone)).name):
        raise CheckpointError(
            f"{path}: {_BACKBONE} is {shown(backbone)}, a mixture of experts; allowed: a dense Qwen3 backbone"
        )
    return TrainConfig(_name(path, content, _CODEC_TAG), _name(path, content, _TOKENIZER))


def _name(path: Path, content: dict[str, Any], key: str) -> str | None:
    value = _at(content, key, default=None)
    if value is not None and not (isinstance(value, str) and value):
        raise CheckpointError(f"{path}: {key} is {shown(value)}; allowed: a name")
    return value


def _at(content: dict[str, Any], key: str, default: Any) -> Any:
    value: Any = content
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return default
        value = value[part]
    return value
