"""Choose the answers whose sound is kept: a few at random."""

from __future__ import annotations

import heapq
import re
import zlib
from pathlib import Path

from .lines import id_of
from .source import Source

KEPT = 20


def choose_sounds(source: Source, count: int | None, folder: Path, name: str) -> dict[int, Path]:
    """Choose the lines whose sound is kept, the same ones in every run, so that runs can be compared.

    If the number of lines grows, lines that were chosen before remain chosen.

    Args:
        source: the source of the lines.
        count: number of lines; None means all.
        folder: folder of the sounds.
        name: name of the results, because a folder may have sounds of several.

    Returns:
        The file of each chosen line, by its number.
    """
    chosen = heapq.nsmallest(KEPT, source.lines(count), key=lambda numbered: zlib.crc32(b"%d" % numbered[0]))
    return {number: folder / _file_name(number, id_of(raw, number), name) for number, raw in chosen}


def _file_name(line: int, example_id: str, name: str) -> str:
    return f"{line:06d}_{_plain(example_id)}.{_plain(name)}.wav"


def _plain(text: str) -> str:
    return re.sub(r"[^\w.-]+", "_", text, flags=re.ASCII)[:80]
