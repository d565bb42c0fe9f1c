"""Names of tensors as modules have them, whatever a trainer wrapped the modules in."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sglang_speechlm.config.files import CheckpointError

_WRAPPERS = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
"""What torch.compile, activation checkpointing and FSDP put into names."""

_PARALLEL = "module."
"""What DistributedDataParallel puts before all names."""


def plain_names(path: Path, names: Iterable[str]) -> dict[str, str]:
    """Each name as it is saved, to the name without what wrappers put into it.

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
        raise CheckpointError(f"{path}: names clash when {', '.join((*_WRAPPERS, _PARALLEL))} are taken off")
    return plain
