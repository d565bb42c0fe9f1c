"""A directory to serve: its config, and whether its files match the config."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sglang_speechlm.checkpoint.shards import INDEX_FILE
from sglang_speechlm.checkpoint.tensors import check_tensors
from sglang_speechlm.config import MODEL_TYPES, BagpiperConfig, SpeechLMConfig
from sglang_speechlm.config.files import CheckpointError, naming, read_json, safetensors_shapes, shown
from sglang_speechlm.tokenizer import TextTokenizer, offset_tokenizer

QUANTIZATION_FIELDS = ("quantization_config", "compression_config")
"""Fields of a config.json that say how its tensors are quantized."""

_QUANTIZATION_FILES = ("hf_quant_config.json", "quant_model_description.json")
"""Files that describe the quantization instead, next to a config.json."""

_ALLOWED_INSTEAD = (
    "allowed: an unquantized checkpoint, such as the original of this one; --quantization fp8 quantizes it "
    "when it is loaded"
)


def checkpoint_config(directory: Path) -> SpeechLMConfig:
    """Return the config of a served directory.

    Raises:
        CheckpointError: if the directory has no SpeechLM checkpoint, or its config contradicts itself.
    """
    file = directory / "config.json"
    fields = read_json(file)
    model_type = fields.get("model_type")
    if model_type not in MODEL_TYPES:
        raise CheckpointError(f"{file}: model_type is {shown(model_type)}; allowed: {', '.join(MODEL_TYPES)}")
    _refuse_quantized(directory, fields)
    with naming(file):
        config: SpeechLMConfig = (BagpiperConfig if model_type == "bagpiper" else SpeechLMConfig)(**fields)
        return config


def _refuse_quantized(directory: Path, fields: Mapping[str, Any]) -> None:
    file, text = directory / "config.json", fields.get("text_config")
    for place, values in (("", fields), ("text_config.", text if isinstance(text, Mapping) else {})):
        for name in QUANTIZATION_FIELDS:
            if values.get(name) is not None:
                raise CheckpointError(f"{file}: {place}{name} is {shown(values[name])}; {_ALLOWED_INSTEAD}")
    for name in _QUANTIZATION_FILES:
        if (directory / name).exists():
            raise CheckpointError(f"{directory / name}: {_ALLOWED_INSTEAD}")


def served_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a served directory's tensors, by name, from the headers of its files.

    Raises:
        CheckpointError: if there are none, or a file is missing, broken or truncated.
    """
    with naming(directory):
        files = sorted(directory.glob("*.safetensors"))
        index = directory / INDEX_FILE
        if index.is_file():
            named = read_json(index).get("weight_map")
            if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
                raise CheckpointError(
                    f"{index}: weight_map is {shown(named)}; allowed: an object that maps tensor names to file names"
                )
            files = sorted({directory / name for name in named.values()})
        if not files:
            raise CheckpointError(f"{directory}: contains no safetensors files")
        return {name: shape for file in files for name, shape in safetensors_shapes(file).items()}


def check_served(directory: Path, config: SpeechLMConfig) -> None:
    """Refuse a directory whose files do not match its config.

    Raises:
        CheckpointError: if they differ; the message names the file or the tensors.
    """
    shapes = served_shapes(directory)
    with naming(directory):
        check_tensors(shapes, config)


def tokenizer_files(directory: Path, config: SpeechLMConfig) -> dict[str, str] | None:
    """Return the tokenizer files to serve instead of a directory's own, name to content; None if its own are usable.

    Raises:
        CheckpointError: if there is no tokenizer, or it is broken or of another kind.
    """
    with naming(directory / "tokenizer.json"):
        return None if TextTokenizer.fits(directory, config) else offset_tokenizer(directory, config)
