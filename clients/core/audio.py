"""Find the audio files that lines name."""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import takewhile
from pathlib import Path, PurePath

from .failure import Failure, Kind, Refused

MAX_AUDIO_BYTES = 90 * 1024**2
"""Maximum size of a file. The server accepts bodies of 128 MiB, and base64 adds a third."""


class AudioFiles:
    """The audio files of an input."""

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        """List everything below ``root``, following links.

        Args:
            folder: base of relative paths, before the current directory.
            root: folder to search, by the last parts of paths, for files that are not at their paths.

        Raises:
            Refused: if the root is not a directory.
        """
        self._folder, self._root = folder, root
        self._named: defaultdict[str, list[Path]] = defaultdict(list)
        if root is None:
            return
        if not root.is_dir():
            raise Refused(f"--audio-root {root}: no such directory")
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
        """Return the file for a path, and its bytes.

        Raises:
            Failure: if no file or several files match, or it cannot be read.
        """
        if not name:
            raise Failure(Kind.MISSING_AUDIO, "the message has no file name")
        try:
            path = self._find(name)
            if not path.is_file():
                raise Failure(Kind.UNREADABLE_AUDIO, f"{name}: not a file")
            size = path.stat().st_size
            if not 0 < size <= MAX_AUDIO_BYTES:
                message = f"{name}: must have 1 to {MAX_AUDIO_BYTES} bytes; got {size}"
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
            below = f", nor one of that name below {self._root}" if self._root else ""
            raise Failure(Kind.MISSING_AUDIO, f"{name}: no such file{below}")
        tails = [_common_tail(parts, path.parts) for path in fitting]
        best = [path for path, tail in zip(fitting, tails, strict=True) if tail == max(tails)]
        if len(best) > 1:
            shown = f"{best[0]} and {best[1]}"
            raise Failure(Kind.AMBIGUOUS_AUDIO, f"{name}: {len(best)} files below --audio-root match: {shown}")
        return best[0]


def _common_tail(path: tuple[str, ...], other: tuple[str, ...]) -> int:
    pairs = zip(reversed(path), reversed(other), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
