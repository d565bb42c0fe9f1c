"""Plan and write a conversion."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm
from transformers import XcodecConfig

from sglang_speechlm.checkpoint.convert.codec import check_codec, codec_config
from sglang_speechlm.checkpoint.convert.decoding import read_decoding
from sglang_speechlm.checkpoint.convert.plan import begin_or_resume
from sglang_speechlm.checkpoint.convert.settings import ConversionSettings
from sglang_speechlm.checkpoint.convert.sizes import served_config
from sglang_speechlm.checkpoint.convert.train_config import read_train_config
from sglang_speechlm.checkpoint.shards import plan_shards, write_index, write_shard, write_text
from sglang_speechlm.checkpoint.source import PRESET_FILE, Source, StoredTensor
from sglang_speechlm.checkpoint.tensors import CODEC_PREFIX, LOSS_WEIGHTS, check_tensors, expected_tensors
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.config.files import naming, read_json
from sglang_speechlm.prompt.presets import load_preset
from sglang_speechlm.tokenizer import offset_tokenizer

_CODEC_DIRECTORY = "xcodec"
_BAGPIPERS_PRESET = {"extends": "bagpiper-tts"}
"""Every native checkpoint is a Bagpiper model: it writes a plan and a caption before it speaks."""
_FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Conversion:
    """A planned conversion, validated as far as possible without writing.

    Attributes:
        source: the source.
        config: the served config.
        codec: config of the codec among the source's tensors; None if it has none.
        files: text files of the served directory, content by name: the tokenizer's and the preset.
        state: the tensors to write.
        sizes: their sizes in the served directory, in bytes, in the order of the files.
        shards: names of tensors, by file name.
        notes: sentences for the log.
    """

    source: Source
    config: SpeechLMConfig
    codec: XcodecConfig | None
    files: Mapping[str, str]
    state: Mapping[str, StoredTensor]
    sizes: Mapping[str, int]
    shards: Mapping[str, list[str]]
    notes: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """Total size of the served directory's tensors."""
        return sum(self.sizes.values())


def plan_conversion(source: Source, tokenizer: Path | None, settings: ConversionSettings) -> Conversion:
    """Validate a source and plan its conversion, without writing anything.

    Args:
        source: weights that need a conversion, with their YAML files.
        tokenizer: directory with Qwen3's ``tokenizer.json`` and, if possible, its ``config.json``; None (not downloaded
            yet) plans with Qwen3's usual values and without tokenizer files.
        settings: all other settings.

    Raises:
        CheckpointError: if the files are broken, contradict each other, or belong to another kind of model.
    """
    facts = read_train_config(source.train_config)
    decoding = read_decoding(source.inference)
    state = source.open()
    notes = list(source.notes)
    used = decoding["decoding_source"].split(", else ")
    notes += [
        f"{file} is not used: decoding defaults come from {decoding['decoding_source']}"
        for file in source.inference
        if file.name not in used
    ]
    if state.pop(LOSS_WEIGHTS, None) is not None:
        notes.append(f"{LOSS_WEIGHTS} is left out: it only weights the training loss")
    with naming(source.path):
        shapes = {name: tensor.shape for name, tensor in state.items()}
        dtype = _target_dtype(state, settings)
        config = served_config(shapes, facts, tokenizer, settings, str(dtype).removeprefix("torch."), decoding)
        check_tensors(shapes, config)
        codec = codec_config(shapes, settings)
        if codec is not None:
            check_codec(shapes, codec)
            config.xcodec_hf_model_tag = _CODEC_DIRECTORY
    if source.preset is not None:
        with naming(source.preset):
            load_preset(str(source.preset))
    preset = _BAGPIPERS_PRESET if source.preset is None else read_json(source.preset)
    files = {PRESET_FILE: json.dumps(preset, indent=2) + "\n"}
    if tokenizer is not None:
        files |= offset_tokenizer(tokenizer, config)
    order = [*expected_tensors(config), *(name for name in state if name.startswith(CODEC_PREFIX))]
    sizes = {name: state[name].numel * _dtype_of(name, state[name], dtype).itemsize for name in order}
    shards = plan_shards(sizes, settings.shard_bytes)
    return Conversion(source, config, codec, files, state, sizes, shards, tuple(notes))


def convert(conversion: Conversion, output: Path) -> SpeechLMConfig:
    """Write the served directory ``output``, or resume where a killed run stopped.

    config.json, without which a directory cannot be served, is written last. One shard at a time is held in memory.
    Each shard, including those of an earlier run, is compared with the source after it has been written.

    Args:
        conversion: the planned conversion.
        output: a new directory, or that of an earlier run of the same conversion.

    Returns:
        The served config.

    Raises:
        FileExistsError: if ``output`` contains something else.
        ValueError: if ``output`` was started with another conversion.
        CheckpointError: if the source changes or can no longer be read, or a file cannot be written.
        OSError: if a shard's contents differ from what was written.
    """
    config, state, shards = conversion.config, conversion.state, conversion.shards
    dtype = config.dtype
    plan = {"checkpoint": conversion.source.path.name, "config": config.to_dict(), "shards": shards}
    begin_or_resume(output, plan)
    for file, text in conversion.files.items():
        write_text(output / file, text)
    with tqdm(total=conversion.total_bytes, desc="Converting", unit="B", unit_scale=True) as progress:
        for file, names in shards.items():
            _write_verified(output / file, {name: state[name] for name in names}, dtype)
            progress.update(sum(conversion.sizes[name] for name in names))
    write_index(output, shards, conversion.sizes)
    if conversion.codec is not None:
        with naming(output / _CODEC_DIRECTORY):
            conversion.codec.save_pretrained(output / _CODEC_DIRECTORY)
    write_text(output / "config.json", config.to_json_string())
    return config


def _target_dtype(state: Mapping[str, StoredTensor], settings: ConversionSettings) -> torch.dtype:
    odd = next((f"{name} is {tensor.dtype}" for name, tensor in state.items() if _is_odd(name, tensor)), None)
    if odd is not None:
        raise ValueError(f"{odd}; allowed: {', '.join(map(str, _FLOATS))}")
    if settings.dtype != "stored":
        dtype: torch.dtype = getattr(torch, settings.dtype)
        return dtype
    if "model.embed_tokens.weight" not in state:
        raise ValueError("the checkpoint has no tensor model.embed_tokens.weight")
    return state["model.embed_tokens.weight"].dtype


def _is_odd(name: str, tensor: StoredTensor) -> bool:
    """Whether a tensor has an unexpected dtype; the codec's buffers may also be flags."""
    return tensor.dtype not in _FLOATS and not name.startswith(CODEC_PREFIX)


def _dtype_of(name: str, tensor: StoredTensor, target: torch.dtype) -> torch.dtype:
    """Return the dtype to write; the codec keeps its own, because its sound would suffer first."""
    return tensor.dtype if name.startswith(CODEC_PREFIX) else target


def _write_verified(path: Path, source: Mapping[str, StoredTensor], dtype: torch.dtype) -> None:
    if _holds(path, source, dtype):
        return
    write_shard(path, {name: tensor.read().to(_dtype_of(name, tensor, dtype)) for name, tensor in source.items()})
    if not _holds(path, source, dtype):
        raise OSError(f"{path}: the contents differ from what was written")


def _holds(path: Path, source: Mapping[str, StoredTensor], dtype: torch.dtype) -> bool:
    """Whether the file exists and matches the converted ``source`` bit for bit."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys()) == source.keys() and all(
                _same_bits(file.get_tensor(name), tensor.read().to(_dtype_of(name, tensor, dtype)))
                for name, tensor in source.items()
            )
    except SafetensorError:
        return False


def _same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and torch.equal(left.reshape(-1).view(torch.uint8), right.reshape(-1).view(torch.uint8))
    )
