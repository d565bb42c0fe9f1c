"""The safetensors files of a served directory: distribute tensors over them, and write them one at a time."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sglang_speechlm.config.files import naming

INDEX_FILE = "model.safetensors.index.json"
_EMBEDDINGS = "model.embed_tokens.weight"


def plan_shards(sizes: Mapping[str, int], shard_bytes: int) -> dict[str, list[str]]:
    """Return tensor names by file name, in the given order; only a single tensor may exceed ``shard_bytes``.

    Args:
        sizes: sizes of the tensors in bytes, by name.
        shard_bytes: maximum size of a file.

    Raises:
        ValueError: if ``shard_bytes`` is not positive.
    """
    if shard_bytes < 1:
        raise ValueError(f"shard_bytes must be at least 1; got {shard_bytes}")
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    if len(groups) == 1:
        return {"model.safetensors": groups[0]}
    return {f"model-{number:05d}-of-{len(groups):05d}.safetensors": group for number, group in enumerate(groups, 1)}


def write_shard(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write one file atomically: it is complete or absent.

    Raises:
        CheckpointError: if it cannot be written, for example on a full disk.
    """
    unfinished = path.with_name(path.name + ".part")
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with naming(path):
        save_file(contiguous, unfinished, metadata={"format": "pt"})
        unfinished.chmod(0o644)  # safetensors makes it readable for the owner only
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)


def write_index(directory: Path, shards: Mapping[str, list[str]], sizes: Mapping[str, int]) -> None:
    """Write the index of which tensor is in which file; a single file needs none."""
    if len(shards) == 1:
        (directory / INDEX_FILE).unlink(missing_ok=True)
        return
    index = {
        "metadata": {"total_size": sum(sizes.values())},
        "weight_map": {name: file for file, names in shards.items() for name in names},
    }
    write_text(directory / INDEX_FILE, json.dumps(index, indent=2) + "\n")


def stored_dtype(directory: Path) -> torch.dtype:
    """Return the dtype of a served directory's stored embeddings; bfloat16 if there are none."""
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            if _EMBEDDINGS in tensors.keys():  # noqa: SIM118 (it is no mapping)
                dtype: torch.dtype = tensors.get_slice(_EMBEDDINGS)[:0].dtype
                return dtype
    return torch.bfloat16


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically: it is complete or unchanged.

    Raises:
        CheckpointError: if it cannot be written.
    """
    unfinished = path.with_name(path.name + ".part")
    with naming(path):
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
