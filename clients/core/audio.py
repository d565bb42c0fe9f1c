"""Audio files, found by the paths that lines give."""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import takewhile
from pathlib import Path, PurePath

from .failure import Failure, Kind, Refused

MAX_AUDIO_BYTES = 90 * 1024**2
"""Of one file. The server takes bodies of 128 MiB, and base64 is a third longer than what it holds."""


class AudioFiles:
    """Where the audio of an input lies."""

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        """List what is below ``root``, links included.

        Args:
            folder: where relative paths begin; what is not there is looked for in the current directory.
            root: where files are looked for by the last parts of their paths if they are not where their paths say.

        Raises:
            Refused: if the root is no folder.
        """
        self._folder, self._root = folder, root
        self._named: defaultdict[str, list[Path]] = defaultdict(list)
        if root is None:
            return
        if not root.is_dir():
            raise Refused(f"--audio-root {root}: no such folder")
        seen: set[str] = set()
        for place, folders, names in os.walk(root, followlinks=True):
            real = os.path.realpath(place)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            for name in names:
                self._named[name].append(Path(place, name))

    def read(self, name: str) -> tuple[Path, bytes]:
        """The file of a path, and its bytes.

        Raises:
            Failure: if there is none, several fit, or it cannot be read.
        """
        if not name:
            raise Failure(Kind.MISSING_AUDIO, "the message names no file")
        try:
            path = self._find(name)
            if not path.is_file():
                raise Failure(Kind.UNREADABLE_AUDIO, f"{name}: not a file")
            size = path.stat().st_size
            if not 0 < size <= MAX_AUDIO_BYTES:
                message = f"{name}: must have 1 to {MAX_AUDIO_BYTES} bytes; it has {size}"
                raise Failure(Kind.UNREADABLE_AUDIO, message)
            return path, path.read_bytes()
        except (OSError, ValueError) as error:
            raise Failure(Kind.UNREADABLE_AUDIO, f"{name}: {error}") from error

    def _find(self, name: str) -> Path:
        for path in (self._folder / name, Path(name)):
            if path.exists():
                return path
        parts = PurePath(name).parts
        fitting = self._named.get(parts[-1], []) if parts else []
        if not fitting:
            below = f", nor any of its name below {self._root}" if self._root else ""
            raise Failure(Kind.MISSING_AUDIO, f"{name}: no such file{below}")
        tails = [_common_tail(parts, path.parts) for path in fitting]
        best = [path for path, tail in zip(fitting, tails, strict=True) if tail == max(tails)]
        if len(best) > 1:
            shown = f"{best[0]} and {best[1]}"
            raise Failure(Kind.AMBIGUOUS_AUDIO, f"{name}: {len(best)} files below --audio-root fit: {shown}")
        return best[0]


def _common_tail(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    pairs = zip(reversed(one), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
