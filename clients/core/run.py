"""Many lines asked at once: so many workers, each with one line at a time, so that no more than that is ever held."""

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
from .failure import Failure, Kind, Refused
from .lines import Line, Survey, parse_line, read_lines, survey
from .messages import split_ground_truth, to_chat, to_speak_about, written_history
from .request import Task
from .results import Results
from .score import is_right
from .sounds import choose_lines, save_sound

_SHOWN_FAILURES = 20
_SPARE_FILES = 256
_WAITS_FOR = {Kind.NO_SERVER: "for the server", Kind.OVERLOADED: "for room"}


@dataclass(frozen=True)
class Job:
    """One task over one input.

    Attributes:
        task: what is asked.
        input: ESPnet-format JSONL.
        count: of its lines; None for all.
        output: the results.
        sounds: folder of the sounds that are kept; None where there are none.
        send_ground_truth: whether the assistant's last turn is sent like the others, and nothing scored.
    """

    task: Task
    input: Path
    count: int | None
    output: Path
    sounds: Path | None = None
    send_ground_truth: bool = False

    def settings(self, seen: Survey) -> dict[str, Any]:
        """What the answers depend on."""
        return {
            "task": self.task.name,
            "cfg": self.task.cfg,
            "input": seen.sha256,
            "send_ground_truth": self.send_ground_truth,
        }


@dataclass
class Work:
    """A job under way.

    Attributes:
        job: the job.
        seen: its input.
        results: what there is so far.
    """

    job: Job
    seen: Survey
    results: Results
    lines: Iterator[tuple[int, bytes]] = field(init=False)
    kept: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        unanswered = read_lines(self.job.input, self.job.count)
        self.lines = ((number, raw) for number, raw in unanswered if not self.results.is_done(number))
        self.kept = choose_lines(self.seen.last)

    @property
    def left(self) -> int:
        """Lines that were neither answered nor failed."""
        answered = self.results.done_up_to(self.seen.last)
        return self.seen.lines - answered - self.results.tally.failures.total()


def start(job: Job, *, fresh: bool, stack: ExitStack) -> Work:
    """Open a job's files; ``stack`` closes them.

    Raises:
        Refused: if that cannot be.
    """
    seen = survey(job.input, job.count)
    results = Results(job.output, job.settings(seen), fresh=fresh)
    stack.callback(results.close)
    return Work(job, seen, results)


def run(works: Sequence[Work], *, url: str, key: str | None, concurrency: int, patience: float) -> bool:
    """Ask for all lines that have no answer yet.

    Args:
        works: that run side by side.
        url: of the server.
        key: for it, if it wants one.
        concurrency: requests at once, of each of the works.
        patience: seconds that a line may take.

    Returns:
        Whether it came to its end; False if it was interrupted (SIGINT or SIGTERM).

    Raises:
        Refused: if it cannot begin or go on.
    """
    if not any(work.left for work in works):
        return True
    _allow_open_files(concurrency * len(works) + _SPARE_FILES)
    return asyncio.run(_run(works, concurrency, url, key, patience))


async def _run(works: Sequence[Work], concurrency: int, url: str, key: str | None, patience: float) -> bool:
    async with open_session(key) as session:
        server = Server(session, url, patience)
        await server.check()
        return await _Run(works, concurrency, server).go()


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
            line: Line | None = None
            try:
                line = parse_line(raw)
                record = await self._answer(work, number, line)
            except Failure as failure:
                self._fail(work, number, line, failure)
            else:
                work.results.add(record)
            self._bar.update()

    async def _answer(self, work: Work, number: int, line: Line) -> dict[str, Any]:
        body, truth, notes = await asyncio.to_thread(_prepare, work.job, line)
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
        record = _record(number, line, answer, seconds, notes)
        if truth is not None:
            record |= {"answer": truth, "right": is_right(answer.text, truth, line.choices), "groups": line.groups}
        if answer.wav is not None and work.job.sounds is not None and number in work.kept:
            try:
                record["wav"] = await asyncio.to_thread(
                    save_sound, work.job.sounds, number, line.example_id, answer.wav
                )
            except OSError as error:
                raise Refused(f"--save-dir {work.job.sounds}: {error.strerror}") from error
        return record

    def _fail(self, work: Work, number: int, line: Line | None, failure: Failure) -> None:
        work.results.fail(number, line.example_id if line else None, failure)
        self._failed += 1
        if self._failed <= _SHOWN_FAILURES:
            tqdm.write(f"{work.job.input}, line {number}: {failure.kind}: {failure}", file=sys.stderr)
        if self._failed == _SHOWN_FAILURES:
            tqdm.write("further failures are only written down, in *.failures.jsonl", file=sys.stderr)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1 if self._terminal else 30)
            self._show()

    def _show(self) -> None:
        waits = [f"{count} waiting {_WAITS_FOR[kind]}" for kind, count in self._waiting.items() if count]
        self._bar.set_postfix_str(", ".join([f"failed={self._failed}", *waits]))


def _prepare(job: Job, line: Line) -> tuple[bytes, str | None, list[str]]:
    """A request's body, the answer that is right if it is known, and what to note about the request."""
    truth: str | None = None
    notes: list[str] = []
    if job.task.speaks:
        messages = to_speak_about(line.messages)
    elif job.send_ground_truth:
        messages, notes = written_history(line.messages)
    else:
        messages, said = split_ground_truth(line.messages)
        messages, notes = written_history(messages)
        truth = line.answer or said
    return orjson.dumps(job.task.body(to_chat(messages, job.input.resolve().parent))), truth, notes


def _record(number: int, line: Line, answer: Answer, seconds: float, notes: Sequence[str]) -> dict[str, Any]:
    return {
        "line": number,
        "example_id": line.example_id,
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
        raise Refused(f"--concurrency: {needed} open files are needed, and the system allows {hard} (ulimit -Hn)")
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
