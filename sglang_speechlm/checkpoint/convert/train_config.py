"""What a training config (YAML) says of the model that was trained with it.

Of ESPnet's ``espnet2/speechlm`` config these keys are looked at; all but ``multimodal_io`` may be absent::

    job_type: speechlm
    multimodal_io:                  # the order gives the order of the id ranges
        text: {...}
        discrete_audio:
            codec_choice: Xcodec
            codec_hf_model_tag: hf-audio/xcodec-hubert-general
            ssl_choice: null
            delay_interleave: true
        continuous_audio:
            encoder_choice: huggingface
            encoder_hf_model_tag: Qwen/Qwen3-Omni-30B-A3B-Instruct
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_REQUIRED = {
    "job_type": "speechlm",
    "multimodal_io.discrete_audio.codec_choice": "Xcodec",
    "multimodal_io.discrete_audio.ssl_choice": None,
    "multimodal_io.discrete_audio.delay_interleave": True,
    "multimodal_io.continuous_audio.encoder_choice": "huggingface",
}
_ENCODER = "multimodal_io.continuous_audio.encoder_hf_model_tag"
_CODEC_TAG = "multimodal_io.discrete_audio.codec_hf_model_tag"


@dataclass(frozen=True)
class TrainConfig:
    """The facts that the conversion takes from the training config."""

    xcodec_hf_model_tag: str | None


def read_train_config(path: Path) -> TrainConfig:
    """Read the YAML file and refuse what this runtime does not serve.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no training config, or of a model of another kind: the key, its value and what is allowed.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("multimodal_io"), dict):
        raise ValueError(f"{path} has no mapping multimodal_io: not a SpeechLM training config")
    for key, allowed in _REQUIRED.items():
        value = _at(content, key, default=allowed)
        if value != allowed:
            raise ValueError(f"{path}: {key} is {value!r}; allowed: {allowed!r}")
    discrete = [name for name in content["multimodal_io"] if name != "continuous_audio"]
    if discrete != ["text", "discrete_audio"]:
        raise ValueError(
            f"{path}: multimodal_io has the discrete modalities {discrete}; "
            "allowed: ['text', 'discrete_audio'], in this order"
        )
    encoder = _at(content, _ENCODER, default="Qwen3-Omni")
    if "Qwen3-Omni" not in str(encoder):
        raise ValueError(f"{path}: {_ENCODER} is {encoder!r}; allowed: a Qwen3-Omni model")
    return TrainConfig(xcodec_hf_model_tag=_at(content, _CODEC_TAG, default=None))


def _at(content: dict[str, Any], key: str, default: Any) -> Any:
    value: Any = content
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return default
        value = value[part]
    return value
