"""The results on disk, such that a run that was killed goes on where it was.

Beside ``X.jsonl``, which only grows, by one whole record for each line that was answered, lie ``X.run.json`` (what was
asked, when, and what was written), ``X.failures.jsonl`` (lines without an answer, of the last run), ``X.results.json``
and the summary.
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
    """One results file, held by one process at a time.

    Attributes:
        path: of the records.
        ledger: of the run.
        tally: of all records.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, fresh: bool = False) -> None:
        """Open a results file, and change nothing in it before ``begin``.

        Args:
            path: of the records, ending in .jsonl.
            settings: what answers depend on; a file of others is refused.
            fresh: whether to begin anew over this client's earlier results.

        Raises:
            Refused: if anything that is there is not this run's, is of other settings, in use, or not understood.
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
        """When runs began, this one last, in seconds since the epoch."""
        return self.ledger.starts

    def close(self) -> None:
        """Let others have it."""
        self._file.close()
        if self._failures:
            self._failures.close()

    def beside(self, suffix: str) -> Path:
        """A file that belongs to the results: ``X`` followed by ``suffix``."""
        return self.path.with_name(self.path.stem + suffix)

    def is_done(self, line: int) -> bool:
        """Whether a line was answered."""
        return line < len(self._done) and bool(self._done[line])

    def done_up_to(self, line: int) -> int:
        """How many of the lines 1 to ``line`` were answered."""
        return self._done.count(1, 0, line + 1)

    def begin(self) -> None:
        """Write down that a run begins: from now on, files change.

        Raises:
            Refused: if that cannot be.
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
            Refused: if it cannot be written; what of it was is taken off when the run is continued.
        """
        self._file.append(self.ledger.record(record))
        self._count(record)

    def fail(self, record: dict[str, Any], failure: Failure) -> None:
        """Write down why a line has no answer.

        Args:
            record: which line it is.
            failure: what went wrong.

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
        """All whole records, read from the disk.

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
        """Count what is there; find where the last whole record ends."""
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
        """Check that the answers that are there are of these settings; ``--fresh`` needs the same task only."""
        earlier = self.ledger.settings or {}
        others = sorted((self._settings.keys() | earlier.keys()) - {"task"})
        for name in ("task", *([] if self._fresh else others)):
            if earlier.get(name) != self._settings.get(name):
                raise Refused(
                    f"{self.path} holds answers of another run: {name} was {earlier.get(name)!r} there and is "
                    f"{self._settings.get(name)!r} here; name another --output"
                )

    def _count(self, record: dict[str, Any]) -> None:
        line = record["line"]
        if not isinstance(line, int) or line < 1:
            raise ValueError(f"line must be a number from 1; got {line!r}")
        if line >= len(self._done):
            self._done.extend(bytes(line + 1024 - len(self._done)))
        if self._done[line]:
            raise ValueError(f"line {line} is there twice")
        self.tally.answered(record)
        self._done[line] = 1
