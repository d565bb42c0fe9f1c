"""The results on disk, from which a killed run is resumed.

``X.jsonl`` only grows, by one complete record per answered line. Next to it are ``X.run.json`` (settings, starts, and
hashes of the files), ``X.failures.jsonl`` (lines without an answer in the last run), ``X.results.json`` and the
summary.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .failure import Failure, Refused
from .files import Appended, make_folder, read_lines, refusing
from .ledger import Ledger
from .tally import Tally

SUFFIXES = (".jsonl", ".run.json", ".failures.jsonl", ".results.json")


class Results:
    """A results file, locked by one process at a time.

    Attributes:
        path: the file of records.
        ledger: the run's ledger.
        tally: the figures of all records.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, fresh: bool = False) -> None:
        """Open a results file, without changing it before ``begin``.

        Args:
            path: the file of records, ending in .jsonl.
            settings: what answers depend on; a file with other settings is refused.
            fresh: whether to replace this client's earlier results.

        Raises:
            Refused: if an existing file does not belong to this run, has other settings, is in use, or is invalid.
        """
        self.path, self.tally = path, Tally()
        self._settings, self._fresh = settings, fresh
        self._done = bytearray()
        make_folder(path.parent, "--output")
        self.ledger = Ledger(self.beside(".run.json"))
        self._failures: Appended | None = None
        self._check_failures()
        self._file = Appended(path)
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    @property
    def starts(self) -> list[float]:
        """The starts of the runs, this one last, in seconds since the epoch."""
        return self.ledger.starts

    def close(self) -> None:
        """Release the lock."""
        self._file.close()
        if self._failures:
            self._failures.close()

    def beside(self, suffix: str) -> Path:
        """Return the path of another file of the results: ``X`` followed by ``suffix``."""
        return self.path.with_name(self.path.stem + suffix)

    def is_done(self, line: int) -> bool:
        """Whether a line has been answered."""
        return line < len(self._done) and bool(self._done[line])

    def done_up_to(self, line: int) -> int:
        """Return how many of the lines 1 to ``line`` have been answered."""
        return self._done.count(1, 0, line + 1)

    def begin(self) -> None:
        """Record the start of a run; from now on, files change.

        Raises:
            Refused: if that fails.
        """
        if self._fresh or self.ledger.settings is None:
            self.ledger.starts.clear()
        self.ledger.settings = self._settings
        self.ledger.starts.append(time.time())
        if self._fresh:
            self._file.keep(0)
        elif self._whole < self._size:
            self._file.keep(self._whole)
        elif self._unended:
            self._file.append(b"\n")
        self.ledger.save()
        self._check_failures()
        with refusing(self.beside(".failures.jsonl")):
            self.beside(".failures.jsonl").unlink(missing_ok=True)

    def add(self, record: dict[str, Any]) -> None:
        """Write the record of an answered line.

        Raises:
            Refused: if it cannot be written; a partial record is removed when the run is resumed.
        """
        self._file.append(self.ledger.record(record))
        self._count(record)

    def fail(self, record: dict[str, Any], failure: Failure) -> None:
        """Record why a line has no answer.

        Args:
            record: identifies the line.
            failure: the reason.

        Raises:
            Refused: if it cannot be written.
        """
        now = round(time.time(), 3)
        if self._failures is None:
            self._failures = Appended(self.beside(".failures.jsonl"), new=True)
        fields = {**record, "kind": failure.kind, "message": str(failure), "when": now}
        self._failures.append(self.ledger.record(fields))
        self.tally.failed(failure.kind, now)

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield all complete records from the disk.

        Raises:
            Refused: if there is anything else between them.
        """
        return (fields for _, fields in self._records(self.path) if fields is not None)

    def _records(self, path: Path) -> Iterator[tuple[bytes, dict[str, Any] | None]]:
        return self.ledger.records(path, read_lines(path))

    def _check_failures(self) -> None:
        for _ in self._records(self.beside(".failures.jsonl")):
            pass

    def _read(self) -> None:
        """Count the existing records, and find the end of the last complete one."""
        self._size = self._whole = 0
        self._unended = False
        for number, (raw, fields) in enumerate(self._records(self.path), 1):
            if not self._size:
                self._check()
            self._size += len(raw)
            if fields is None:
                break
            self._whole += len(raw)
            self._unended = not raw.endswith(b"\n")
            try:
                if not self._fresh:
                    self._count(fields)
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise Refused(f"{self.path}, line {number}: not a record of this client ({error!r})") from error

    def _check(self) -> None:
        """Check that the existing answers have these settings; ``--fresh`` only requires the same task."""
        earlier = self.ledger.settings or {}
        others = sorted((self._settings.keys() | earlier.keys()) - {"task"})
        for name in ("task", *([] if self._fresh else others)):
            if earlier.get(name) != self._settings.get(name):
                raise Refused(
                    f"{self.path} contains answers of another run: {name} was {earlier.get(name)!r} there and is "
                    f"{self._settings.get(name)!r} here; choose another --output"
                )

    def _count(self, record: dict[str, Any]) -> None:
        line = record["line"]
        if not isinstance(line, int) or line < 1:
            raise ValueError(f"line must be a number from 1; got {line!r}")
        if line >= len(self._done):
            self._done.extend(bytes(line + 1024 - len(self._done)))
        if self._done[line]:
            raise ValueError(f"line {line} appears twice")
        self.tally.answered(record)
        self._done[line] = 1
