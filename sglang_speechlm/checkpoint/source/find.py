"""Identify the checkpoint at a path: a directory that can be served in place, or weights that must be converted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

from sglang_speechlm.checkpoint.source.distributed import METADATA_FILE, open_distributed
from sglang_speechlm.checkpoint.source.stored import StoredTensor
from sglang_speechlm.checkpoint.source.torch_file import open_torch_file
from sglang_speechlm.config.files import CheckpointError, naming, read_yaml

PRESET_FILE = "preset.json"
DEEPSPEED_FILE = "mp_rank_00_model_states.pt"
_TORCH_SUFFIXES = (".pt", ".pth")
_YAML_SUFFIXES = (".yaml", ".yml")
_STEP = re.compile(r"step_(\d+)")
_UNFINISHED = f"an unfinished save ({METADATA_FILE} is missing)"
_DEEPSPEED_SAVE = re.compile(r"global_step(\d+)")
_LATEST = "latest"
_LEVELS_UP = 3
"""From DeepSpeed's folder in a trainer's step to the trainer's output directory."""

ALLOWED = (
    "allowed: a served directory (config.json), a release (one training YAML, one .pt), a .pt file, "
    f"{DEEPSPEED_FILE} or its folder, a trainer's output directory or one of its step_N"
)


@dataclass(frozen=True)
class Source:
    """The checkpoint at a path.

    Attributes:
        kind: "served" needs no conversion; the others do.
        path: the directory or file of the weights.
        train_config: the training YAML, if there is one.
        inference: YAML files with decoding defaults, next to the training YAML or the weights.
        preset: the checkpoint's own preset file, if there is one.
        notes: sentences for the log: what was skipped and assumed.
    """

    kind: Literal["served", "torch file", "distributed"]
    path: Path
    train_config: Path | None = None
    inference: tuple[Path, ...] = ()
    preset: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """A description in words."""
        if self.kind == "served":
            return f"{self.path}: a directory that is served as it is"
        if self.kind == "distributed":
            return f"{self.path}: a step of a trainer (torch.distributed.checkpoint)"
        native = "DeepSpeed's model states" if self.path.name == DEEPSPEED_FILE else "a native checkpoint"
        return f"{self.path}: {native}"

    @property
    def files(self) -> list[Path]:
        """The files of the weights."""
        return sorted(self.path.iterdir()) if self.kind == "distributed" else [self.path]

    def open(self) -> dict[str, StoredTensor]:
        """Return the state dict of a source that needs a conversion.

        Raises:
            CheckpointError: if the files are broken or of another kind.
        """
        return open_distributed(self.path) if self.kind == "distributed" else open_torch_file(self.path)


def find_source(path: Path, train_config: Path | None = None) -> Source:
    """Identify the checkpoint at ``path``.

    Args:
        path: a file or a directory.
        train_config: the training YAML; by default the one next to the weights or up to three folders above.

    Raises:
        CheckpointError: if there is no checkpoint, or more than one.
    """
    path = path.resolve() if ".." in path.parts else path.absolute()  # folders above are found by name
    with naming(path):
        if path.is_file():
            if path.suffix not in _TORCH_SUFFIXES:
                raise CheckpointError(f"{path}: not a checkpoint; {ALLOWED}")
            return _with_yamls(Source("torch file", path), train_config)
        if not path.is_dir():
            raise CheckpointError(f"{path}: no such file or directory; {ALLOWED}")
        if (path / "config.json").is_file():
            return Source("served", path)
        notes: list[str] = []
        folder = _save_in(path) or _newest_step(path, notes) or path
        if (folder / METADATA_FILE).is_file():
            return _with_yamls(Source("distributed", folder, notes=tuple(notes)), train_config)
        return _with_yamls(Source("torch file", _torch_file(folder), notes=tuple(notes)), train_config)


def _save_in(folder: Path) -> Path | None:
    """Return the folder of a complete save: the folder itself, or one of DeepSpeed's in it; None if there is none.

    DeepSpeed puts each save into a folder ``global_step<N>`` and its name into a file ``latest``.
    """
    if (folder / METADATA_FILE).is_file() or (folder / DEEPSPEED_FILE).is_file():
        return folder
    numbered = [(int(m[1]), file) for file in folder.iterdir() if (m := _DEEPSPEED_SAVE.fullmatch(file.name))]
    saves = [save for _, save in sorted(numbered, reverse=True) if (save / DEEPSPEED_FILE).is_file()]
    latest = _latest(folder)
    return next((save for save in saves if save.name == latest), next(iter(saves), None))


def _latest(folder: Path) -> str | None:
    """Return the name of the last completed save according to DeepSpeed's file; None without that file."""
    if not (folder / _LATEST).is_file():
        return None
    with (folder / _LATEST).open("rb") as file:
        return file.read(100).decode("utf-8", errors="replace").strip()


def _newest_step(path: Path, notes: list[str]) -> Path | None:
    """Return the complete step with the highest number, in ``path`` or its ``checkpoints``; None without steps.

    Raises:
        CheckpointError: if there are steps but none is complete.
    """
    steps: list[tuple[int, Path]] = []
    for folder in (path, path / "checkpoints"):
        if folder.is_dir():
            steps += [(int(m[1]), f) for f in folder.iterdir() if (m := _STEP.fullmatch(f.name)) and f.is_dir()]
    unfinished: list[Path] = []
    for _, step in sorted(steps, reverse=True):
        save = _save_in(step)
        if save is not None:
            notes += [f"{folder} is skipped: {_UNFINISHED}" for folder in unfinished]
            return save
        unfinished.append(step)
    if unfinished:
        raise CheckpointError(f"{unfinished[0]}: {_UNFINISHED}, and no step is complete")
    if _STEP.fullmatch(path.name) and any(path.glob("*.distcp")):
        raise CheckpointError(f"{path}: {_UNFINISHED}")
    return None


def _torch_file(folder: Path) -> Path:
    found = sorted(file for file in folder.iterdir() if file.suffix in _TORCH_SUFFIXES and file.is_file())
    states = [file for file in found if re.fullmatch(r"mp_rank_\d+_model_states\.pt", file.name)]
    if len(states) > 1:
        raise CheckpointError(f"{folder}: {len(states)} mp_rank files: a model split over ranks is not supported")
    if len(states or found) != 1:
        names = f" ({', '.join(file.name for file in found[:8])})" if found else ""
        raise CheckpointError(f"{folder}: contains {len(found)} .pt files{names} and no config.json; {ALLOWED}")
    return (states or found)[0]


def _with_yamls(source: Source, train_config: Path | None) -> Source:
    weights = source.path if source.kind == "distributed" else source.path.parent
    notes = source.notes
    if train_config is None:
        train_config = _train_config_near(weights)
    if train_config is None:
        notes += (
            f"no training config (YAML) near {source.path}: assuming SpeechLM's usual order of ids (text, then "
            "Xcodec's streams); use --train-config FILE to name one",
        )
    folders = dict.fromkeys([weights] if train_config is None else [train_config.parent, weights])
    inference = tuple(file for folder in folders for file in _yamls(folder) if file.name.startswith("inference"))
    preset = next((file for folder in folders if (file := folder / PRESET_FILE).is_file()), None)
    return Source(source.kind, source.path, train_config, inference, preset, notes)


def _train_config_near(weights: Path) -> Path | None:
    """Return the training YAML in the weights' folder, or in the nearest folder above that has one.

    Without one, return the only YAML file next to the weights, whose errors are reported when it is read.
    """
    adjacent = [file for file in _yamls(weights) if not file.name.startswith("inference")]
    only = adjacent[0] if len(adjacent) == 1 else None
    if only is not None:
        read_yaml(only)  # a broken file might be the training config, so none from above replaces it
    for folder, yamls in chain([(weights, adjacent)], _yamls_above(weights)):
        found = [file for file in yamls if _is_train_config(file)]
        if len(found) > 1:
            raise CheckpointError(
                f"{folder}: several training configs ({', '.join(file.name for file in found[:8])}); "
                "name one with --train-config"
            )
        if found:
            return found[0]
    return only


def _yamls_above(weights: Path) -> Iterator[tuple[Path, list[Path]]]:
    for folder in weights.absolute().parents[:_LEVELS_UP]:
        with suppress(PermissionError):  # a folder that cannot be listed may still be passed through
            yield folder, _yamls(folder)


def _yamls(folder: Path) -> list[Path]:
    return sorted(file for file in folder.iterdir() if file.suffix in _YAML_SUFFIXES and file.is_file())


def _is_train_config(file: Path) -> bool:
    try:
        return "multimodal_io" in read_yaml(file)
    except CheckpointError:
        return False
