"""Every file that the clients write: no other module opens one for writing.

A whole file is written under a new name and then moved to its place, so that no reader meets half of it and a full disk
loses nothing. What is in its place already is replaced only if it is proved to be the run's own: ``ledger.py`` has the
proof. Records are appended, never over anything. Nothing is truncated.
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
    """Turn what the system says about a file into a refusal that names it.

    Args:
        path: of the file.
        option: that named the file, if one did.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        why = (isinstance(error, OSError) and error.strerror) or error
        raise Refused(f"{option} {path}: {why}".lstrip()) from error


def size_of(path: Path) -> int:
    """Bytes of a file that is to be written; 0 if there is none.

    Raises:
        Refused: if something else than a file is there.
    """
    with refusing(path):
        try:
            found = path.stat()
        except FileNotFoundError:
            return 0
        if not stat.S_ISREG(found.st_mode):
            raise Refused(f"{path}: must be a file; {'a folder' if path.is_dir() else 'something else'} is there")
        return found.st_size


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with refusing(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file that the clients write; the last may lack its end, and there may be no file."""
    if size_of(path):
        with refusing(path), path.open("rb") as file:
            yield from file


def check_distinct(path: Path, inputs: Iterable[Path]) -> None:
    """Refuse to write what is read, whatever names lead to it.

    Raises:
        Refused: naming both.
    """
    for source in inputs:
        with suppress(OSError, ValueError):
            if path.samefile(source):
                raise Refused(f"{path}: is the same file as --input {source}; name another --output")


def make_folder(folder: Path, option: str) -> None:
    """Make a folder, and try that files can be written there.

    Raises:
        Refused: naming the option.
    """
    with refusing(folder, option):
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".{secrets.token_hex(8)}.new"
        os.close(os.open(trial, _NEW, 0o666))
        trial.unlink()


def put(path: Path, chunks: Iterable[bytes], before: Callable[[str], None]) -> None:
    """Write a whole file in the place of what is there.

    Args:
        path: of the file; where it is a link, what it leads to.
        chunks: of the file's bytes.
        before: is called with the SHA-256 of the bytes before they take their place, and raises if they must not.

    Raises:
        Refused: if it cannot be written; then all is as it was before.
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
    """A file that only grows, by whole records, and is held by one process at a time."""

    def __init__(self, path: Path, *, new: bool = False) -> None:
        """Open it, or make it.

        Args:
            path: of the file.
            new: whether there must be none yet.

        Raises:
            Refused: if that cannot be, or another process holds it.
        """
        self.path = path
        self._broken: str | None = None
        self._file = self._open(new)

    def close(self) -> None:
        """Let others have it."""
        self._file.close()

    def append(self, data: bytes) -> None:
        """Write at the end. After a record that could not be written whole, none is written behind it.

        Raises:
            Refused: if it cannot be written.
        """
        try:
            while data and not self._broken:
                data = data[self._file.write(data) :]
        except OSError as error:
            self._broken = error.strerror
        if self._broken:
            raise Refused(f"{self.path}: {self._broken}; the same command goes on from here")

    def keep(self, size: int) -> None:
        """Put a copy of the first ``size`` bytes in the file's place, and hold that.

        Raises:
            Refused: if that cannot be; then all is as it was before.
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
