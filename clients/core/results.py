"""The results on disk, such that a run that was killed goes on where it was.

Beside ``X.jsonl``, which only grows, by one whole record for each line that was answered, lie ``X.run.json`` (what was
asked, and when), ``X.failures.jsonl`` (lines without an answer, of the last run) and the summary.
"""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import Any

import orjson

from .failure import Failure, Refused
from .sounds import replace_file
from .tally import Tally


class Results:
    """One results file, held by one process at a time.

    Attributes:
        path: of the records.
        tally: of all of them.
        starts: when runs began, this one last, in seconds since the epoch.
    """

    def __init__(self, path: Path, settings: dict[str, Any], *, fresh: bool = False) -> None:
        """Open or make a results file.

        Args:
            path: of the records, ending in .jsonl.
            settings: what answers depend on; a file of others is refused.
            fresh: whether to begin anew over whatever is there.

        Raises:
            Refused: if the file is of other settings, in use, or not understood.
        """
        self.path, self.tally = path, Tally()
        self.starts: list[float] = []
        self._done = bytearray()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+", buffering=0)
        except OSError as error:
            raise Refused(f"--output {path}: {error.strerror}") from error
        try:
            self._open(settings, fresh)
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Let others have it."""
        self._file.close()

    def beside(self, suffix: str) -> Path:
        """A file that belongs to the results: ``X`` followed by ``suffix``."""
        return self.path.with_name(self.path.stem + suffix)

    def is_done(self, line: int) -> bool:
        """Whether a line was answered."""
        return line < len(self._done) and bool(self._done[line])

    def done_up_to(self, line: int) -> int:
        """How many of the lines 1 to ``line`` were answered."""
        return self._done.count(1, 0, line + 1)

    def add(self, record: dict[str, Any]) -> None:
        """Write the record of an answered line.

        Raises:
            Refused: if it cannot be written; what of it was is taken off when the run is continued.
        """
        self._write(self._file, record)
        self._count(record)

    def fail(self, line: int, example_id: str | None, failure: Failure) -> None:
        """Write down why a line has no answer.

        Raises:
            Refused: if it cannot be written.
        """
        now = time.time()
        record = {"line": line, "example_id": example_id, "kind": failure.kind, "message": str(failure), "when": now}
        with self.beside(".failures.jsonl").open("ab", buffering=0) as file:
            self._write(file, record)
        self.tally.failed(failure.kind, now)

    def _write(self, file: Any, record: dict[str, Any]) -> None:
        data = orjson.dumps(record) + b"\n"
        try:
            while data:
                data = data[file.write(data) :]
        except OSError as error:
            raise Refused(f"{file.name}: {error.strerror}; the same command goes on from here") from error

    def _open(self, settings: dict[str, Any], fresh: bool) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Refused(f"{self.path}: another client is writing it") from error
        if fresh:
            self._file.truncate(0)
        if os.fstat(self._file.fileno()).st_size:
            self._check(settings)
            self._read()
        self.starts.append(time.time())
        run = {"settings": settings, "starts": self.starts}
        replace_file(self.beside(".run.json"), orjson.dumps(run, option=orjson.OPT_INDENT_2))
        self.beside(".failures.jsonl").unlink(missing_ok=True)

    def _check(self, settings: dict[str, Any]) -> None:
        way_out = "name another --output, or begin anew with --fresh"
        try:
            run = orjson.loads(self.beside(".run.json").read_bytes())
            earlier, self.starts = run["settings"], [float(start) for start in run["starts"]]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise Refused(
                f"{self.path} holds answers, but {self.beside('.run.json').name} does not say of what; {way_out}"
            ) from error
        for name in settings.keys() | earlier.keys():
            if earlier.get(name) != settings.get(name):
                raise Refused(
                    f"{self.path} holds answers of another run: {name} was {earlier.get(name)!r} there and is "
                    f"{settings.get(name)!r} here; {way_out}"
                )

    def _read(self) -> None:
        """Count what is there, and take off a last record that was not written to its end."""
        self._file.seek(0)
        place = 0
        with open(self._file.fileno(), "rb", closefd=False) as reading:
            for number, raw in enumerate(reading, 1):
                if not raw.endswith(b"\n"):
                    break
                place += len(raw)
                try:
                    self._count(orjson.loads(raw))
                except (ValueError, LookupError, TypeError, AttributeError) as error:
                    raise Refused(f"{self.path}, line {number}: not a record of this client ({error!r})") from error
        self._file.truncate(place)

    def _count(self, record: dict[str, Any]) -> None:
        line = record["line"]
        if line >= len(self._done):
            self._done.extend(bytes(line + 1024 - len(self._done)))
        if self._done[line]:
            raise ValueError(f"line {line} is there twice")
        self.tally.answered(record)
        self._done[line] = 1
