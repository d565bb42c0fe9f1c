"""Build random checkpoints in exactly the released layout, of any size."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import torch
from tqdm import tqdm

from sglang_speechlm.checkpoint.random.codec import random_codec
from sglang_speechlm.checkpoint.random.spec import CheckpointSpec
from sglang_speechlm.checkpoint.random.vocabulary import write_raw_tokenizer
from sglang_speechlm.checkpoint.random.weights import random_tensor
from sglang_speechlm.checkpoint.shards import plan_shards, write_index, write_shard, write_text
from sglang_speechlm.checkpoint.tensors import CODEC_PREFIX, expected_tensors
from sglang_speechlm.tokenizer import offset_tokenizer


def build_checkpoint(path: str | Path, *, spec: CheckpointSpec) -> Path:
    """Write a served directory with random weights; the same ``spec`` yields the same tensors.

    One shard at a time is held in memory, in addition to the codec.

    Returns:
        The directory.

    Raises:
        ValueError: if the sizes of ``spec`` contradict each other.
        FileExistsError: if ``path`` is a directory that is not empty.
    """
    directory = Path(path)
    config = spec.config()
    directory.mkdir(parents=True, exist_ok=True)
    if any(directory.iterdir()):
        raise FileExistsError(f"{directory} is not empty")

    with tempfile.TemporaryDirectory() as raw:
        write_raw_tokenizer(Path(raw), spec.text_vocab_size)
        files = offset_tokenizer(Path(raw), config)
    for file, text in files.items():
        write_text(directory / file, text)
    codec_tensors = _write_codec(directory, spec)

    shapes = expected_tensors(config)
    item_size = getattr(torch, spec.dtype).itemsize
    sizes = {name: math.prod(shape) * item_size for name, shape in shapes.items()}
    sizes |= {name: tensor.nbytes for name, tensor in codec_tensors.items()}
    shards = plan_shards(sizes, spec.shard_bytes)
    for file, names in tqdm(shards.items(), desc="Writing checkpoint", unit="file", disable=len(shards) == 1):
        write_shard(
            directory / file,
            {
                name: codec_tensors[name] if name in codec_tensors else random_tensor(name, shapes[name], spec, config)
                for name in names
            },
        )
    write_index(directory, shards, sizes)
    config.save_pretrained(directory)
    return directory


def _write_codec(directory: Path, spec: CheckpointSpec) -> dict[str, torch.Tensor]:
    """Write ``xcodec/``; return the codec's tensors for the checkpoint's own files."""
    codec = random_codec(spec)
    codec.config.save_pretrained(directory / "xcodec")
    state: dict[str, torch.Tensor] = codec.state_dict()
    if spec.codec_storage == "directory":
        write_shard(directory / "xcodec" / "model.safetensors", state)
        return {}
    return {CODEC_PREFIX + name: tensor for name, tensor in state.items()}
