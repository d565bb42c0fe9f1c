"""The tensors of a file that ``torch.save`` wrote: listed at once, read one by one."""

from __future__ import annotations

import math
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sglang_speechlm.checkpoint.source.names import plain_names
from sglang_speechlm.checkpoint.source.pickles import Skipped, TableUnpickler
from sglang_speechlm.checkpoint.source.stored import StoredTensor
from sglang_speechlm.config.files import CheckpointError, naming

_STATE_KEY = "module"
_NAMES_IN_A_MESSAGE = 8
_PICKLE_BYTES = 256 << 20
_LOCAL_HEADER = 30
_EXPANDED_VALUES = 1 << 24
"""Maximum values of an expanded tensor; the weights of the loss may be one."""
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class _Storage:
    """Bytes of the file; tensors are views of them."""

    key: str
    dtype: torch.dtype
    numel: int


@dataclass(frozen=True)
class _View:
    """A tensor's description in the pickle."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def span(self) -> int:
        """Number of elements from the first to the last."""
        if 0 in self.size:
            return 0
        return 1 + sum((size - 1) * stride for size, stride in zip(self.size, self.stride, strict=True))


def open_torch_file(path: Path) -> dict[str, StoredTensor]:
    """Return the state dict of a ``.pt`` file, native (under the key "module", as in DeepSpeed's) or plain.

    Only tensors are built, and no code of the file is run. Everything next to "module" is skipped. A prefix ``module.``
    that all names share, and what other wrappers add to names, are removed.

    Raises:
        CheckpointError: if it is not a torch zip file, is truncated, has no state dict, or names clash.
    """
    with naming(path):
        if not path.is_file():
            raise CheckpointError(f"no checkpoint {path}")
        if not zipfile.is_zipfile(path):
            raise CheckpointError(
                f"{path} is not a torch zip file: truncated, of another kind, or in torch's old format; save it "
                "again with torch.save(state_dict, path)"
            )
        with zipfile.ZipFile(path) as archive:
            return _named(path, _state_of(path, _unpickled(path, archive)), _records(path, archive))


def _unpickled(path: Path, archive: zipfile.ZipFile) -> Any:
    found = [info for info in archive.infolist() if info.filename.endswith("/data.pkl")]
    if len(found) != 1:
        raise CheckpointError(f"{path} is not a torch zip file: it must contain exactly one data.pkl")
    (info,) = found
    _refuse_compressed(path, info)
    if info.file_size > _PICKLE_BYTES:
        raise CheckpointError(f"{path}: its data.pkl has {info.file_size} bytes; the limit is {_PICKLE_BYTES}")
    folder = info.filename.rpartition("/")[0]
    byteorder = f"{folder}/byteorder"
    if byteorder in archive.namelist() and archive.read(byteorder).strip() != b"little":
        raise CheckpointError(f"{path}: its tensors are big-endian; allowed: little-endian")
    with archive.open(info) as file:
        return TableUnpickler(file, _TABLE, _storage).load()


def _storage(pid: Any) -> _Storage | Skipped:
    """Return the storage, or a stand-in for a dtype that no model's tensor has but a trainer's other state may."""
    kind, dtype, key, _location, numel = pid
    if kind != "storage" or type(numel) is not int or type(key) is not str:
        raise ValueError("contains an unknown kind of storage")
    return _Storage(key, dtype, numel) if isinstance(dtype, torch.dtype) else Skipped()


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Any:
    if isinstance(storage, Skipped):
        return storage
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError("contains a tensor with an invalid size")
    if len(size) != len(stride):
        raise ValueError("contains a tensor whose size and strides differ in length")
    return _View(storage, offset, tuple(size), tuple(stride))


def _first(value: Any, *_: Any) -> Any:
    """Return a parameter's first value, which is its tensor."""
    return value


def _rebuild_subclass(_function: Any, _kind: Any, arguments: Any, _state: Any) -> Any:
    """Rebuild a tensor with attributes, or of a subclass with the same storage."""
    return _rebuild(*arguments)


_TABLE: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_parameter"): _first,
    ("torch._utils", "_rebuild_parameter_with_state"): _first,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_subclass,
    **{("torch", name): dtype for name, dtype in _DTYPES.items()},
}


def _state_of(path: Path, content: Any) -> dict[Any, Any]:
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must contain a state dict; it contains {type(content).__name__}")
    state = content.get(_STATE_KEY, content)
    if not isinstance(state, dict) or (state is content and not any(isinstance(v, _View) for v in state.values())):
        held = ", ".join(sorted(map(str, content))[:_NAMES_IN_A_MESSAGE])
        raise CheckpointError(
            f'{path} is not a state dict and has none under the key "{_STATE_KEY}"; it contains: {held or "nothing"}'
        )
    others = [str(name) for name, value in state.items() if not (isinstance(value, _View) and isinstance(name, str))]
    if others or not state:
        raise CheckpointError(
            f"the state dict of {path} must contain tensors only; others: "
            f"{', '.join(others[:_NAMES_IN_A_MESSAGE]) or 'none'}"
        )
    return state


def _records(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return each storage's entry in the file, by key."""
    records = {}
    for info in archive.infolist():
        folder, _, key = info.filename.rpartition("/")
        if folder.endswith("/data"):
            _refuse_compressed(path, info)
            records[key] = info
    return records


def _refuse_compressed(path: Path, info: zipfile.ZipInfo) -> None:
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise CheckpointError(f"{path}: {info.filename} is compressed, which torch.save never does")


def _named(path: Path, state: dict[str, _View], records: Mapping[str, zipfile.ZipInfo]) -> dict[str, StoredTensor]:
    names = plain_names(path, state)
    starts: dict[str, int] = {}
    length = path.stat().st_size
    with path.open("rb") as file:
        for key, info in records.items():
            file.seek(info.header_offset)
            header = file.read(_LOCAL_HEADER)
            if len(header) < _LOCAL_HEADER:
                raise CheckpointError(f"{path} is cut short: {info.filename} begins beyond its end")
            name_length, extra_length = struct.unpack("<HH", header[26:30])
            starts[key] = info.header_offset + _LOCAL_HEADER + name_length + extra_length
    found = {}
    for saved, view in state.items():
        name, storage = names[saved], view.storage
        record = records.get(storage.key)
        if record is None:
            raise CheckpointError(f"{path}: the bytes of {name} are missing")
        available = min(record.file_size, length - starts[storage.key])
        if (view.offset + view.span) * storage.dtype.itemsize > available:
            raise CheckpointError(f"{path}: the bytes of {name} are cut short")
        found[name] = _stored(path, view, starts[storage.key])
    return found


def _stored(path: Path, view: _View, start: int) -> StoredTensor:
    dtype = view.storage.dtype

    def read() -> torch.Tensor:
        content = torch.empty(view.span * dtype.itemsize, dtype=torch.uint8)
        with naming(path), path.open("rb") as file:
            file.seek(start + view.offset * dtype.itemsize)
            if file.readinto(content.numpy().data) != content.numel():
                raise CheckpointError(f"{path} shrank while it was being read")
        if not content.numel():
            return torch.empty(view.size, dtype=dtype)
        return content.view(dtype).as_strided(view.size, view.stride).contiguous()

    # Strides of 0: reading an expanded tensor could exhaust the memory.
    if math.prod(view.size) > max(view.span, _EXPANDED_VALUES):
        raise CheckpointError(f"{path}: contains an expanded tensor; save a contiguous copy")
    return StoredTensor(view.size, dtype, read)
