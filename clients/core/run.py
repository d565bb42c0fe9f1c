"""Send many lines at once: each of N tasks handles one line at a time, so that at most N lines are in memory."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from tqdm import tqdm

from .answer import Answer, read_answer
from .ask import Server, open_session
from .audio import AudioFiles
from .failure import Failure, Kind, Refused
from .files import check_distinct, make_folder
from .ledger import check, write
from .lines import Line, digest_of_line, id_of, parse_line
from .messages import split_ground_truth, to_chat, to_speak_about, written_history
from .request import Task
from .results import SUFFIXES, Results
from .score import scored
from .sounds import choose_sounds
from .source import Source, Survey, open_source

_SHOWN_FAILURES = 20
_SPARE_FILES = 256
_WAITS_FOR = {Kind.NO_SERVER: "for the server", Kind.OVERLOADED: "for room"}


@dataclass(frozen=True)
class Job:
    """One task over one input.

    Attributes:
        task: the kind of answer.
        input: ESPnet-format JSONL, or an ESPnet manifest.
        count: number of its lines; None means all.
        output: the results file.
        audio_root: folder to search for audio that is not at its path; None for none.
        sounds: folder of the sounds to keep; None for none.
        send_ground_truth: whether the assistant's last turn is sent like the others, and nothing is scored.
    """

    task: Task
    input: Path
    count: int | None
    output: Path
    audio_root: Path | None = None
    sounds: Path | None = None
    send_ground_truth: bool = False

    def settings(self, seen: Survey) -> dict[str, Any]:
        """Return what the answers depend on."""
        return {
            "task": self.task.name,
            "cfg": self.task.cfg,
            "input": seen.sha256,
            "send_ground_truth": self.send_ground_truth,
        }


@dataclass
class Work:
    """A job in progress.

    Attributes:
        job: the job.
        source: the source of its lines.
        seen: the contents of the source when the run began.
        results: the results so far.
        audio: the files that its lines name.
        sounds: the file of each line whose sound is kept.
    """

    job: Job
    source: Source
    seen: Survey
    results: Results
    audio: AudioFiles
    sounds: dict[int, Path]
    lines: Iterator[tuple[int, bytes]] = field(init=False)

    def __post_init__(self) -> None:
        numbered = self.source.lines(self.job.count)
        self.lines = ((number, raw) for number, raw in numbered if not self.results.is_done(number))

    @property
    def left(self) -> int:
        """Number of lines that were neither answered nor failed."""
        answered = self.results.done_up_to(self.seen.last)
        return self.seen.lines - answered - self.results.tally.failures.total()


def start(job: Job, *, fresh: bool, stack: ExitStack) -> Work:
    """Open a job's files without changing them; ``stack`` closes them.

    Raises:
        Refused: if that fails.
    """
    source = open_source(job.input)
    seen = source.survey(job.count)
    audio = AudioFiles(source.path.resolve().parent, job.audio_root)
    for suffix in SUFFIXES:
        check_distinct(job.output.with_name(job.output.stem + suffix), source.files)
    results = Results(job.output, job.settings(seen), fresh=fresh)
    stack.callback(results.close)
    sounds: dict[int, Path] = {}
    if job.sounds is not None:
        make_folder(job.sounds, "--save-dir")
        sounds = choose_sounds(source, job.count, job.sounds, job.output.stem)
    for path in (results.beside(".results.json"), *sounds.values()):
        check(path, [results.ledger], source.files)
    return Work(job, source, seen, results, audio, sounds)


def run(works: Sequence[Work], *, url: str, key: str | None, concurrency: int, patience: float) -> bool:
    """Send all lines that have no answer yet.

    Args:
        works: jobs that run at the same time.
        url: the server's URL.
        key: its key, if it has one.
        concurrency: concurrent requests per job.
        patience: time limit of a line in seconds.

    Returns:
        Whether it was completed; False if it was interrupted (SIGINT or SIGTERM).

    Raises:
        Refused: if it cannot start or continue.
    """
    if not any(work.left for work in works):
        _begin(works)
        return True
    _allow_open_files(concurrency * len(works) + _SPARE_FILES)
    return asyncio.run(_run(works, concurrency, url, key, patience))


async def _run(works: Sequence[Work], concurrency: int, url: str, key: str | None, patience: float) -> bool:
    async with open_session(key) as session:
        server = Server(session, url, patience)
        await server.check()
        _begin(works)
        return await _Run(works, concurrency, server).go()


def _begin(works: Sequence[Work]) -> None:
    for work in works:
        work.results.begin()


class _Run:
    def __init__(self, works: Sequence[Work], concurrency: int, server: Server) -> None:
        self._works, self._concurrency, self._server = works, concurrency, server
        self._waiting: Counter[Kind] = Counter()
        self._failed = 0
        total = sum(work.seen.lines for work in works)
        self._terminal = sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=total - sum(work.left for work in works),
            unit=" lines",
            smoothing=0.05,
            dynamic_ncols=True,
            mininterval=0.1 if self._terminal else 10,
        )

    async def go(self) -> bool:
        current = asyncio.current_task()
        assert current is not None
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, current.cancel)
        ticking = asyncio.create_task(self._tick())
        try:
            async with asyncio.TaskGroup() as group:
                for work in self._works:
                    for _ in range(min(self._concurrency, work.left)):
                        group.create_task(self._answer_lines(work))
        except asyncio.CancelledError:
            return False
        except BaseExceptionGroup as errors:
            raise _first(errors) from None
        finally:
            ticking.cancel()
            self._show()
            self._bar.close()
        return True

    async def _answer_lines(self, work: Work) -> None:
        for number, raw in work.lines:
            try:
                record = await self._answer(work, number, raw)
            except Failure as failure:
                self._fail(work, number, raw, failure)
            else:
                work.results.add(record)
            self._bar.update()

    async def _answer(self, work: Work, number: int, raw: bytes) -> dict[str, Any]:
        line = parse_line(raw, number)
        body, truth, notes = await asyncio.to_thread(_prepare, work, line)
        waits_for: Kind | None = None

        def waits(kind: Kind | None) -> None:
            nonlocal waits_for
            if waits_for is not None:
                self._waiting[waits_for] -= 1
            if kind is not None:
                self._waiting[kind] += 1
            waits_for = kind

        data, seconds = await self._server.ask(body, waits)
        answer = await asyncio.to_thread(read_answer, data)
        which = {"line": number, "example_id": line.example_id, "digest": digest_of_line(raw)}
        record = {**which, **_answered(answer, seconds, notes)}
        if truth is not None:
            record |= scored(answer.text, truth, line)
        if answer.wav is not None and (path := work.sounds.get(number)) is not None:
            await asyncio.to_thread(write, path, [answer.wav], [work.results.ledger])
            record["wav"] = str(path)
        return record

    def _fail(self, work: Work, number: int, raw: bytes, failure: Failure) -> None:
        which = {"line": number, "example_id": id_of(raw, number), "digest": digest_of_line(raw)}
        work.results.fail({**which, "input": str(work.source.path)}, failure)
        self._failed += 1
        if self._failed <= _SHOWN_FAILURES:
            tqdm.write(f"{work.source.path}, line {number}: {failure.kind}: {failure}", file=sys.stderr)
        if self._failed == _SHOWN_FAILURES:
            tqdm.write("further failures are written to *.failures.jsonl only", file=sys.stderr)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1 if self._terminal else 30)
            self._show()

    def _show(self) -> None:
        waits = [f"{count} waiting {_WAITS_FOR[kind]}" for kind, count in self._waiting.items() if count]
        self._bar.set_postfix_str(", ".join([f"failed={self._failed}", *waits]))


def _prepare(work: Work, line: Line) -> tuple[bytes, str | None, list[str]]:
    """Return a request's body, the correct answer if it is known, and warnings about the request."""
    truth: str | None = None
    job, notes = work.job, list[str]()
    if job.task.speaks:
        messages = to_speak_about(line.messages)
    elif job.send_ground_truth:
        messages, notes = written_history(line.messages)
    else:
        messages, last_turn = split_ground_truth(line.messages)
        messages, notes = written_history(messages)
        truth = line.answer or last_turn
    return orjson.dumps(job.task.body(to_chat(messages, work.audio))), truth, [*line.notes, *notes]


def _answered(answer: Answer, seconds: float, notes: Sequence[str]) -> dict[str, Any]:
    return {
        "text": answer.text,
        "finish_reason": answer.finish_reason,
        "audio_seconds": answer.audio_seconds,
        "seconds": round(seconds, 4),
        "finished": round(time.time(), 3),
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "audio_tokens": answer.audio_tokens,
        "warnings": [*notes, *answer.warnings],
    }


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _allow_open_files(needed: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise Refused(f"--concurrency: {needed} open files are needed, but the hard limit is {hard} (ulimit -Hn)")
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
