"""Reading a native checkpoint without loading it."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch

_STATE_KEY = "module"
_COMPILED = "_orig_mod."


def open_native(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of an ESPnet ``.pt`` file; the tensors are mapped from the file and read when used.

    A prefix ``module.`` that all names share, and what torch.compile puts into names, are taken off.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not a torch zip file, has no state dict under "module", or names clash.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(
            f"{path} is not a torch zip file of plain tensors; save it anew as "
            f'torch.save({{"module": state_dict}}, path): {error}'
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get(_STATE_KEY), dict):
        held = ", ".join(sorted(map(str, content))[:8]) if isinstance(content, dict) else type(content).__name__
        raise ValueError(f'{path} has no state dict under the key "{_STATE_KEY}"; it holds: {held}')
    state = content[_STATE_KEY]
    others = [str(name) for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others or not state:
        raise ValueError(f"the state dict of {path} must hold tensors only; others: {', '.join(others[:8]) or 'none'}")
    names = [name.replace(_COMPILED, "") for name in state]
    if all(name.startswith("module.") for name in names):
        names = [name.removeprefix("module.") for name in names]
    if len(set(names)) != len(names):
        raise ValueError(f"names in {path} clash when {_COMPILED!r} is taken off")
    return dict(zip(names, state.values(), strict=True))
