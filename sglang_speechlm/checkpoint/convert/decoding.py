"""Decoding defaults of a release: from its ``inference*.yaml`` files, else from the paper's table.

It reads these keys of ESPnet's inference configs, all of which may be absent::

    text:  {temperature: 0.6, topk: 20, max_step: 2048}
    audio: {temperature: 0.8, topk: 20, cfg: 3, min_step: 50, max_step: 2048}

``inference_text.yaml`` is for text answers: if there is another file, too, the ``audio`` of the former and the ``text``
of the latter are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sglang_speechlm.config.decoding import RULES, TABLE_10, TABLE_10_NAME
from sglang_speechlm.config.files import CheckpointError, read_yaml, shown

_FIELDS = {
    "text": {"temperature": "text_temperature", "topk": "text_topk", "max_step": "text_max_tokens"},
    "audio": {
        "temperature": "audio_temperature",
        "topk": "audio_topk",
        "cfg": "audio_cfg",
        "min_step": "audio_min_frames",
        "max_step": "audio_max_frames",
    },
}
"""Config field, by section and key of the YAML."""


def read_decoding(files: Sequence[Path]) -> dict[str, Any]:
    """Return fields of ``SpeechLMConfig``, including ``decoding_source``, which says where the others come from.

    Raises:
        CheckpointError: if a file cannot be read, or a value is out of range.
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
    """Return the file for a section: the one named after it, else one that is not named after the other section."""
    of_other = [file for file in files if any(f"_{name}." in file.name for name in _FIELDS if name != section)]
    own = [file for file in files if f"_{section}." in file.name]
    general = [file for file in files if file not in of_other and file not in own]
    return next(iter([*own, *general, *of_other]), None)


def _section(file: Path, section: str) -> dict[str, Any]:
    values = read_yaml(file).get(section) or {}
    if not isinstance(values, dict):
        raise CheckpointError(f"{file}: {section} is {shown(values)}; allowed: a mapping")
    found = {}
    for key, field in _FIELDS[section].items():
        value, rule = values.get(key), RULES[field]
        if value is None:
            continue
        if not rule.admits(value):
            raise CheckpointError(f"{file}: {section}.{key} is {shown(value)}; allowed: {rule.allowed}")
        found[field] = rule.kind(value)
    return found
