"""Write the clients' files; no other module opens a file for writing.

A complete file is written under a new name and then moved to its place, so that no reader sees half of it and a full
disk loses nothing. An existing file is replaced only if it provably belongs to the run: ``ledger.py`` has the proof.
Records are only appended. Nothing is truncated.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from .failure import Refused

_APPEND = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_CHUNK = 1 << 20


@contextmanager
def refusing(path: Path, option: str = "") -> Iterator[None]:
    """Turn the system's errors about a file into refusals that name it.

    Args:
        path: the file.
        option: the option that named the file, if any.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise Refused(f"{option} {path}: {why}".lstrip()) from error


def size_of(path: Path) -> int:
    """Return the size of a file to write; 0 if it does not exist.

    Raises:
        Refused: if it is not a regular file.
    """
    with refusing(path):
        try:
            found = path.stat()
        except FileNotFoundError:
            return 0
        if not stat.S_ISREG(found.st_mode):
            raise Refused(f"{path}: must be a file; it is {'a directory' if path.is_dir() else 'not a regular file'}")
        return found.st_size


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with refusing(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file of the clients; the last one may be incomplete, and the file may not exist."""
    if size_of(path):
        with refusing(path), path.open("rb") as file:
            yield from file


def check_distinct(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse to overwrite an input, whatever path leads to it.

    Raises:
        Refused: if the file is an input.
    """
    for source in inputs:
        with suppress(OSError, ValueError):
            if path.samefile(source):
                raise Refused(f"{path}: is the same file as --input {source}; choose another --output")


def make_folder(folder: Path, option: str) -> None:
    """Create a folder, and test that files can be written to it.

    Raises:
        Refused: if they cannot; the message names the option.
    """
    with refusing(folder, option):
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".{secrets.token_hex(8)}.new"
        os.close(os.open(trial, _NEW, 0o666))
        trial.unlink()


def put(path: Path, chunks: Iterable[bytes], before: Callable[[str], None]) -> None:
    """Write a complete file, replacing any existing one.

    Args:
        path: the file; for a link, its target is replaced.
        chunks: the file's bytes.
        before: called with the SHA-256 of the bytes before the replacement; raises to prevent it.

    Raises:
        Refused: if it cannot be written; then nothing has changed.
    """
    place = Path(os.path.realpath(path))
    scratch = place.with_name(f".{secrets.token_hex(8)}.new")
    digest = hashlib.sha256()
    with refusing(path):
        try:
            with open(os.open(scratch, _NEW, 0o666), "wb") as file:
                for chunk in chunks:
                    digest.update(chunk)
                    file.write(chunk)
            before(digest.hexdigest())
            if place.exists():
                shutil.copymode(place, scratch)
            os.replace(scratch, place)
        finally:
            scratch.unlink(missing_ok=True)


class Appended:
    """A file that only grows, by complete records, and is locked by one process at a time."""

    def __init__(self, path: Path, *, new: bool = False) -> None:
        """Open the file, or create it.

        Args:
            path: the file.
            new: whether it must not exist yet.

        Raises:
            Refused: if that fails, or another process has locked it.
        """
        self.path = path
        self._broken: str | None = None
        self._file = self._open(new)

    def close(self) -> None:
        """Release the lock."""
        self._file.close()

    def append(self, data: bytes) -> None:
        """Write at the end. After an incompletely written record, no further record is written.

        Raises:
            Refused: if it cannot be written.
        """
        try:
            while data and not self._broken:
                data = data[self._file.write(data) :]
        except OSError as error:
            self._broken = error.strerror
        if self._broken:
            raise Refused(f"{self.path}: {self._broken}; run the same command again to resume")

    def keep(self, size: int) -> None:
        """Replace the file by a copy of its first ``size`` bytes, and lock that.

        Raises:
            Refused: if that fails; then nothing has changed.
        """
        put(self.path, self._first(size), lambda _: None)
        earlier, self._file = self._file, self._open(new=False)
        earlier.close()

    def _first(self, size: int) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while size and (chunk := file.read(min(size, _CHUNK))):
                size -= len(chunk)
                yield chunk

    def _open(self, new: bool) -> FileIO:
        size_of(self.path)
        with refusing(self.path):
            file = FileIO(os.open(self.path, _APPEND | (os.O_EXCL if new else 0), 0o666), "ab")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if not os.path.samestat(os.fstat(file.fileno()), self.path.stat()):
                    raise BlockingIOError
            except BlockingIOError as error:
                file.close()
                raise Refused(f"{self.path}: another client is writing it") from error
        return file
