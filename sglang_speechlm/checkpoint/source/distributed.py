"""Read the model's tensors from a ``torch.distributed.checkpoint`` directory, assembled chunk by chunk."""

from __future__ import annotations

import io
import math
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch

from sglang_speechlm.checkpoint.source.names import plain_names
from sglang_speechlm.checkpoint.source.pickles import TableUnpickler
from sglang_speechlm.checkpoint.source.stored import StoredTensor
from sglang_speechlm.config.files import CheckpointError, naming

METADATA_FILE = ".metadata"
_MODEL = "model."
_KNOWN_NAME = "stream_emb.weight"
"""A name in every SpeechLM, which shows whether all names have the trainer's prefix."""

_OTHER_STATE = ("optimizer.", "lr_scheduler.", "train_state.", "dataloader.")
"""Prefixes of a trainer's other state, which is saved along with a model whose names have no prefix."""

_DTYPES = {str(value).removeprefix("torch."): value for value in vars(torch).values() if isinstance(value, torch.dtype)}


def _table() -> tuple[dict[tuple[str, str], Any], type[Any], type[Any]]:
    """Return classes for the names in ``.metadata``, and those of the metadata and of a tensor, for a single use.

    They are not torch's own classes, because a pickle can set attributes of the classes that it names.
    """

    class Record:
        pass

    class Metadata(Record):
        pass

    class Tensor(Record):
        pass

    class Properties(Record):
        def __setstate__(self, state: Any) -> None:
            self.dtype = state[0]

    module = "torch.distributed.checkpoint.metadata"
    table: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch", "Size"): torch.Size,
        (module, "Metadata"): Metadata,
        (module, "TensorStorageMetadata"): Tensor,
        (module, "TensorProperties"): Properties,
        (module, "ChunkStorageMetadata"): type("Chunk", (Record,), {}),
        (module, "MetadataIndex"): type("Index", (Record,), {}),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): type("Place", (Record,), {}),
        **{("torch", name): dtype for name, dtype in _DTYPES.items()},
    }
    return table, Metadata, Tensor


def open_distributed(directory: Path) -> dict[str, StoredTensor]:
    """Return the model's tensors under their own names, without the trainer's prefix ``model.``.

    The optimizer's tensors and the trainer's other state are not read.

    Raises:
        CheckpointError: if the directory has no such checkpoint, or a chunk of a tensor is incomplete.
    """
    file = directory / METADATA_FILE
    with naming(file), file.open("rb") as content:
        table, whole, tensor = _table()
        saved = TableUnpickler(content, table).load()
        if not isinstance(saved, whole):
            raise CheckpointError(f"{file}: not the metadata of a torch.distributed.checkpoint")
        entries = saved.state_dict_metadata
        names = _model_names(directory, [name for name, entry in entries.items() if isinstance(entry, tensor)])
        places = {
            (index.fqn, tuple(getattr(index, "offset", None) or ())): info for index, info in saved.storage_data.items()
        }
        return {plain: _stored(directory, name, entries[name], places) for name, plain in names.items()}


def _model_names(directory: Path, saved: list[str]) -> dict[str, str]:
    """Map the names of the model's tensors in the file to their names in the model.

    Raises:
        CheckpointError: if they are not those of a SpeechLM.
    """
    for prefix in (_MODEL, ""):
        own = [name for name in saved if name.startswith(prefix) and not name.startswith(_OTHER_STATE)]
        plain = plain_names(directory, [name.removeprefix(prefix) for name in own])
        if _KNOWN_NAME in plain.values():
            return {name: plain[name.removeprefix(prefix)] for name in own}
    raise CheckpointError(f"{directory}: contains no {_MODEL + _KNOWN_NAME}; it is not a SpeechLM checkpoint")


def _stored(directory: Path, name: str, entry: Any, places: dict[tuple[str, tuple[int, ...]], Any]) -> StoredTensor:
    dtype, shape = entry.properties.dtype, tuple(entry.size)
    chunks = []
    for chunk in entry.chunks:
        begin, size = tuple(chunk.offsets), tuple(chunk.sizes)
        place = places.get((name, begin))
        if place is None or getattr(place, "transform_descriptors", None):
            raise CheckpointError(f"{directory}: the chunk of {name} at {list(begin)} is missing or compressed")
        file = directory / place.relative_path
        if Path(place.relative_path).name != place.relative_path:
            raise CheckpointError(f"{directory}: {name} is in {place.relative_path!r}, which is not a plain file name")
        whole = len(begin) == len(size) == len(shape) and all(
            first >= 0 and length >= 0 and first + length <= limit
            for first, length, limit in zip(begin, size, shape, strict=True)
        )
        with naming(file):
            if not whole or math.prod(size) * dtype.itemsize > place.length:
                raise CheckpointError(f"{file}: the chunk of {name} at {list(begin)} does not fit its tensor")
            if place.offset < 0 or place.offset + place.length > file.stat().st_size:
                raise CheckpointError(f"{file}: cut short: the chunk of {name} at {list(begin)} is incomplete")
        chunks.append((file, place.offset, place.length, begin, size))
    if sum(math.prod(size) for *_, size in chunks) != math.prod(shape):
        raise CheckpointError(f"{directory}: the chunks of {name} do not cover its shape {list(shape)}")

    def read() -> torch.Tensor:
        tensor = torch.empty(shape, dtype=dtype)
        for file, offset, length, begin, size in chunks:
            with naming(file):
                with file.open("rb") as content:
                    content.seek(offset)
                    # weights_only: torch's own safe unpickler, which builds tensors and runs no code.
                    part = torch.load(io.BytesIO(content.read(length)), map_location="cpu", weights_only=True)
                if not isinstance(part, torch.Tensor) or part.dtype != dtype or tuple(part.shape) != size:
                    raise CheckpointError(f"{file}: the chunk of {name} at {list(begin)} does not match .metadata")
                tensor[tuple(slice(first, first + n) for first, n in zip(begin, size, strict=True))] = part
        return tensor

    return StoredTensor(shape, dtype, read)
