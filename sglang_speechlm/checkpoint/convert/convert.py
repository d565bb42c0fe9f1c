"""The conversion itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from sglang_speechlm.checkpoint.convert.codec import check_codec, codec_config
from sglang_speechlm.checkpoint.convert.native import open_native
from sglang_speechlm.checkpoint.convert.plan import begin_or_resume
from sglang_speechlm.checkpoint.convert.settings import ConversionSettings
from sglang_speechlm.checkpoint.convert.sizes import served_config
from sglang_speechlm.checkpoint.convert.train_config import read_train_config
from sglang_speechlm.checkpoint.shards import plan_shards, write_index, write_shard, write_text
from sglang_speechlm.checkpoint.tensors import CODEC_PREFIX, check_tensors, expected_tensors
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.tokenizer import offset_tokenizer

_CODEC_DIRECTORY = "xcodec"


def convert(
    checkpoint: Path, train_config: Path, tokenizer: Path, output: Path, settings: ConversionSettings
) -> SpeechLMConfig:
    """Write the served directory ``output``, or go on where a killed run stopped.

    Everything is checked before the first byte is written; config.json, without which nothing can be served, comes
    last. One shard is held in memory at a time. Each shard is compared with the source after writing, and so is
    each that an earlier run left.

    Args:
        checkpoint: ESPnet ``.pt`` file.
        train_config: its training config, YAML.
        tokenizer: directory with Qwen3's ``tokenizer.json`` and, if possible, its ``config.json``.
        output: a new directory, or one that an earlier run with the same settings left.
        settings: the rest.

    Returns:
        The served config.

    Raises:
        FileNotFoundError: if a file is missing.
        FileExistsError: if ``output`` holds something else.
        ValueError: if the files contradict each other or are of another kind of model.
        OSError: if a shard that was written reads back differently.
    """
    facts = read_train_config(train_config)
    state = open_native(checkpoint)
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    dtype = _target_dtype(state, settings)
    config = served_config(shapes, facts, tokenizer, settings, str(dtype).removeprefix("torch."))
    check_tensors(shapes, config)
    codec = codec_config(shapes, settings)
    if codec is not None:
        check_codec(shapes, codec)
        config.xcodec_hf_model_tag = _CODEC_DIRECTORY

    tokenizer_files = offset_tokenizer(tokenizer, config)

    order = [*expected_tensors(config), *(name for name in state if name.startswith(CODEC_PREFIX))]
    sizes = {name: state[name].numel() * _dtype_of(name, state[name], dtype).itemsize for name in order}
    shards = plan_shards(sizes, settings.shard_bytes)
    begin_or_resume(output, {"checkpoint": checkpoint.name, "config": config.to_dict(), "shards": shards})

    for file, text in tokenizer_files.items():
        write_text(output / file, text)
    with tqdm(total=sum(sizes.values()), desc="Converting", unit="B", unit_scale=True) as progress:
        for file, names in shards.items():
            _write_verified(output / file, {name: state[name] for name in names}, dtype)
            progress.update(sum(sizes[name] for name in names))
    write_index(output, shards, sizes)
    if codec is not None:
        codec.save_pretrained(output / _CODEC_DIRECTORY)
    config.save_pretrained(output)
    return config


def _target_dtype(state: Mapping[str, torch.Tensor], settings: ConversionSettings) -> torch.dtype:
    if settings.dtype != "stored":
        dtype: torch.dtype = getattr(torch, settings.dtype)
        return dtype
    if "model.embed_tokens.weight" not in state:
        raise ValueError("the checkpoint has no tensor model.embed_tokens.weight")
    return state["model.embed_tokens.weight"].dtype


def _dtype_of(name: str, tensor: torch.Tensor, target: torch.dtype) -> torch.dtype:
    """The codec keeps its dtype: it is frozen, and its sound suffers first."""
    return tensor.dtype if name.startswith(CODEC_PREFIX) else target


def _write_verified(path: Path, source: Mapping[str, torch.Tensor], dtype: torch.dtype) -> None:
    if _holds(path, source, dtype):
        return
    # Copied even where the dtype stays: safetensors refuses tensors that share memory.
    write_shard(path, {name: tensor.to(_dtype_of(name, tensor, dtype), copy=True) for name, tensor in source.items()})
    if not _holds(path, source, dtype):
        raise OSError(f"{path} reads back differently from what was written")


def _holds(path: Path, source: Mapping[str, torch.Tensor], dtype: torch.dtype) -> bool:
    """Whether the file exists and holds exactly what ``source`` becomes, bit for bit."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return set(file.keys()) == source.keys() and all(
                _same_bits(file.get_tensor(name), tensor.to(_dtype_of(name, tensor, dtype)))
                for name, tensor in source.items()
            )
    except SafetensorError:
        return False


def _same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    return (
        left.dtype == right.dtype
        and left.shape == right.shape
        and torch.equal(left.reshape(-1).view(torch.uint8), right.reshape(-1).contiguous().view(torch.uint8))
    )
