"""Decoding defaults of a release: its ``inference*.yaml`` files, and for what they leave out the paper's table.

Of ESPnet's inference configs these keys are looked at, all of which may be absent::

    text:  {temperature: 0.6, topk: 20, max_step: 2048}
    audio: {temperature: 0.8, topk: 20, cfg: 3, min_step: 50, max_step: 2048}

``inference_text.yaml`` speaks of answers that are only written: where there is another file, too, its ``audio`` is not
looked at, and the other's ``text`` is not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sglang_speechlm.config.decoding import TABLE_10, TABLE_10_NAME
from sglang_speechlm.config.files import CheckpointError, read_yaml, shown

_TEMPERATURE = ("a number from 0 to 2", lambda value: 0 <= value <= 2)
_TOP_K = ("a whole number of at least 1, or -1", lambda value: value == int(value) and (value >= 1 or value == -1))
_STEPS = ("a whole number from 1 to 1000000", lambda value: value == int(value) and 1 <= value <= 1_000_000)
_CFG = ("a number from 1 to 20", lambda value: 1 <= value <= 20)

_FIELDS: dict[str, dict[str, tuple[str, tuple[str, Callable[[Any], bool]], type]]] = {
    "text": {
        "temperature": ("text_temperature", _TEMPERATURE, float),
        "topk": ("text_topk", _TOP_K, int),
        "max_step": ("text_max_tokens", _STEPS, int),
    },
    "audio": {
        "temperature": ("audio_temperature", _TEMPERATURE, float),
        "topk": ("audio_topk", _TOP_K, int),
        "cfg": ("audio_cfg", _CFG, float),
        "min_step": ("audio_min_frames", _STEPS, int),
        "max_step": ("audio_max_frames", _STEPS, int),
    },
}
"""Section and key of the YAML to the config's field, what is allowed, and the field's type."""


def read_decoding(files: Sequence[Path]) -> dict[str, Any]:
    """Fields of ``SpeechLMConfig``, ``decoding_source`` among them, which says where the others come from.

    Raises:
        CheckpointError: if a file cannot be read, or a value is out of range: file, key, value and what is allowed.
    """
    named = {section: _file_of(section, files) for section in _FIELDS}
    found: dict[str, Any] = {}
    for section, file in named.items():
        if file is not None:
            found |= _section(file, section)
    names = [file.name for file in dict.fromkeys(named.values()) if file is not None]
    if found.keys() < TABLE_10.keys():
        names.append(TABLE_10_NAME)
    return TABLE_10 | found | {"decoding_source": ", else ".join(names)}


def _file_of(section: str, files: Sequence[Path]) -> Path | None:
    """The file that speaks of a section: the one that is named after it, else one that is not named after the other."""
    of_other = [file for file in files if any(f"_{name}." in file.name for name in _FIELDS if name != section)]
    own = [file for file in files if f"_{section}." in file.name]
    general = [file for file in files if file not in of_other and file not in own]
    return next(iter([*own, *general, *of_other]), None)


def _section(file: Path, section: str) -> dict[str, Any]:
    values = read_yaml(file).get(section) or {}
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: {section} is {shown(values)}; allowed: a mapping")
    found = {}
    for key, (field, (allowed, is_allowed), kind) in _FIELDS[section].items():
        value = values.get(key)
        if value is None:
            continue
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9
        if not (is_number and is_allowed(value)):
            raise CheckpointError(f"{file}: {section}.{key} is {shown(value)}; allowed: {allowed}")
        found[field] = kind(value)
    return found
