"""Names of tensors without the parts that a trainer's wrappers added."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sglang_speechlm.config.files import CheckpointError

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
"""Parts that torch.compile, activation checkpointing and FSDP insert into names."""

_PARALLEL = "module."
"""The prefix that DistributedDataParallel adds to all names."""


def plain_names(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Map each saved name to the name without the parts that wrappers added.

    Raises:
        CheckpointError: naming ``path``, if two names become the same.
    """
    plain = {}
    for name in names:
        plain[name] = name
        for wrapper in _WRAPPERS:
            plain[name] = plain[name].replace(wrapper, "")
    if all(name.startswith(_PARALLEL) for name in plain.values()):
        plain = {name: short.removeprefix(_PARALLEL) for name, short in plain.items()}
    if len(set(plain.values())) != len(plain):
        raise CheckpointError(f"{path}: names clash when {', '.join((*_WRAPPERS, _PARALLEL))} are removed")
    return plain
