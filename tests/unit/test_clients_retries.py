"""The clients against a small HTTP server that refuses, fails, hangs and goes away."""

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from clients_small import (
    CLIENT,
    DEFAULTS,
    OK,
    SECONDS,
    TEXTS,
    Reply,
    ScriptedServer,
    lines,
    records,
    run_client,
    scripted_server,
    texts_of,
)
from core.command import ANSWERED, INTERRUPTED, LACKING, REFUSED, main
from core.lines import MODALITIES, ROLES, digest_of_line
from core.run import Work
from hypothesis import given, settings
from hypothesis import strategies as st

VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9)
FIELDS = ("example_id", "messages", "answer", "choices", "task", "sub-category")


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Lists, messages, and objects that look like lines."""
    message = st.tuples(st.sampled_from(ROLES), st.sampled_from(MODALITIES), inner)
    line = st.dictionaries(st.sampled_from(FIELDS), inner)
    asked = st.builds(
        lambda of, messages: {**of, "messages": messages}, line, st.lists(message, min_size=1, max_size=3)
    )
    return st.lists(inner, max_size=4) | line | asked


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with an input of six lines, two of which have one id."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_bytes(lines(6))
    return tmp_path


def test_every_line_is_answered_once(folder: Path) -> None:
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED
    assert texts_of(server.bodies) == TEXTS
    assert sorted(record["line"] for record in records()) == [1, 2, 3, 4, 5, 6]
    assert records()[0]["audio_seconds"] == 0.5
    assert len(list((folder / "sounds").iterdir())) == 6
    summary = orjson.loads((folder / "x.summary.json").read_bytes())["tasks"][0]
    assert (summary["answered"], summary["failed"], summary["audio"]["seconds"]) == (6, 0, 3.0)
    assert (folder / "x.summary.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("when", ["0", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_full_server_is_asked_again_when_it_says(folder: Path, when: str, status: int) -> None:
    full: Reply = (status, {"Retry-After": when}, b'{"error": {"message": "full"}}')
    with scripted_server(lambda number: full if number < 3 else OK) as server:
        assert run_client(server.port) == ANSWERED
    assert len(server.bodies) == 9
    assert sorted(record["line"] for record in records()) == [1, 2, 3, 4, 5, 6]


def test_a_full_server_that_does_not_say_when_is_asked_again(folder: Path) -> None:
    with scripted_server(lambda number: (429, {}, b"") if number < 2 else OK) as server:
        assert run_client(server.port) == ANSWERED
    assert len(server.bodies) == 8


@pytest.mark.parametrize("when", ["9" * 400, "soon", "-1", "1.5", "", "Fri, 31 Dec 9999 23:59:59 -2359", "²"])
def test_a_retry_after_of_any_form_is_waited_for_no_longer_than_the_line_may_take(folder: Path, when: str) -> None:
    Path("in.jsonl").write_bytes(lines(1))
    with scripted_server(lambda _: (503, {"Retry-After": when}, b"")) as server:
        assert run_client(server.port, "--timeout", "0.5") == LACKING
    assert [record["kind"] for record in records("x.failures.jsonl")] == ["overloaded"]


def test_proxies_are_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED


def test_a_redirection_is_told_and_not_followed(folder: Path) -> None:
    with (
        scripted_server(lambda _: OK) as other,
        scripted_server(lambda _: (307, {"Location": f"http://127.0.0.1:{other.port}/"}, b"")) as one,
    ):
        assert run_client(one.port) == LACKING
    assert not other.bodies
    assert {record["kind"] for record in records("x.failures.jsonl")} == {"http_307"}


@pytest.mark.parametrize("key", ["a\nb", "kéy", "a\x7f"])
def test_a_key_that_no_header_can_hold_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    monkeypatch.setenv("SPEECHLM_API_KEY", key)
    assert run_client(1) == REFUSED
    assert capsys.readouterr().err == "SPEECHLM_API_KEY: must be printable ASCII\n"


def test_a_port_that_is_none_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_client(99999) == REFUSED
    assert "99999" in capsys.readouterr().err


def test_a_huge_line_is_sent_as_it_is(folder: Path) -> None:
    text = "  " + "long " * 2_000_000 + "\u2028 "
    Path("in.jsonl").write_bytes(orjson.dumps({"messages": [["user", "text", text]]}) + b"\r\n")
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED
    assert texts_of(server.bodies) == [text]


def test_an_answer_without_usage_is_an_answer(folder: Path) -> None:
    bare = orjson.dumps({"choices": [{"message": {"content": "Yes."}}], "usage": None})
    with scripted_server(lambda _: (200, {}, bare)) as server:
        assert run_client(server.port) == ANSWERED
    assert {(record["text"], record["prompt_tokens"], record["finish_reason"]) for record in records()} == {
        ("Yes.", 0, "unknown")
    }


@given(st.lists(st.recursive(VALUES, nested, max_leaves=20), min_size=30, max_size=60))
@settings(max_examples=4)
def test_no_line_ends_the_run(tmp_path_factory: pytest.TempPathFactory, rows: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = [
        "--input",
        str(folder / "in.jsonl"),
        "--output",
        str(folder / "x.jsonl"),
        "--save-dir",
        str(folder / "s"),
    ]
    with scripted_server(lambda _: OK) as server:
        assert main(DEFAULTS, ["--port", str(server.port), *options]) in (ANSWERED, LACKING)
    answered, failed = (records(str(folder / name)) for name in ("x.jsonl", "x.failures.jsonl"))
    assert sorted(record["line"] for record in (*answered, *failed)) == list(range(1, len(rows) + 1))


def test_a_failure_holds_what_it_takes_to_try_again(folder: Path) -> None:
    rows = [b"not JSON", b'{"example_id": "a", "messages": "x"}', lines(1).strip()]
    Path("in.jsonl").write_bytes(b"\n".join(rows))
    with scripted_server(lambda _: (500, {}, b"")) as server:
        assert run_client(server.port, "--concurrency", "1") == LACKING
    failures = records("x.failures.jsonl")
    assert [(record["line"], record["example_id"]) for record in failures] == [(1, "line-1"), (2, "a"), (3, "id0")]
    assert [record["digest"] for record in failures] == [digest_of_line(row) for row in rows]
    assert {record["input"] for record in failures} == {"in.jsonl"}


def test_a_server_that_stays_full_is_given_up(folder: Path) -> None:
    with scripted_server(lambda _: (503, {"Retry-After": "60"}, b"")) as server:
        assert run_client(server.port, "--timeout", "2", "--concurrency", "6") == LACKING
    assert [record["kind"] for record in records("x.failures.jsonl")] == ["overloaded"] * 6


@pytest.mark.parametrize("status", [400, 500, 503, 504])
def test_other_errors_are_not_repeated(folder: Path, status: int) -> None:
    error: Reply = (status, {}, b'{"error": {"message": "cfg: no"}}')
    with scripted_server(lambda number: error if number == 0 else OK) as server:
        assert run_client(server.port) == LACKING
    assert texts_of(server.bodies) == TEXTS
    (failure,) = records("x.failures.jsonl")
    assert (failure["kind"], failure["message"]) == (f"http_{status}", "cfg: no")
    assert len(records()) == 5


def test_a_connection_that_ends_without_an_answer_is_not_repeated(folder: Path) -> None:
    with scripted_server(lambda number: None if number == 0 else OK) as server:
        assert run_client(server.port) == LACKING
    assert texts_of(server.bodies) == TEXTS
    assert [record["kind"] for record in records("x.failures.jsonl")] == ["disconnected"]


def test_an_answer_that_does_not_come_is_not_asked_for_again(folder: Path) -> None:
    hanging = threading.Event()
    with scripted_server(lambda number: OK if number else (hanging.wait(SECONDS) and None) or None) as server:
        assert run_client(server.port, "--timeout", "5") == LACKING
        hanging.set()
    assert texts_of(server.bodies) == TEXTS
    assert [record["kind"] for record in records("x.failures.jsonl")] == ["timeout"]


def test_an_answer_that_is_none_is_a_failure(folder: Path) -> None:
    with scripted_server(lambda number: OK if number else (200, {}, b"<html>")) as server:
        assert run_client(server.port) == LACKING
    assert [record["kind"] for record in records("x.failures.jsonl")] == ["bad_answer"]


def test_what_failed_is_asked_for_again_by_the_next_run(folder: Path) -> None:
    with scripted_server(lambda number: (500, {}, b"") if number < 2 else OK) as server:
        assert run_client(server.port) == LACKING
        assert run_client(server.port) == ANSWERED
    assert len(server.bodies) == 8
    assert sorted(record["line"] for record in records()) == [1, 2, 3, 4, 5, 6]
    assert not Path("x.failures.jsonl").exists()


def test_a_finished_run_asks_nothing_more(folder: Path) -> None:
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED
    assert run_client(server.port) == ANSWERED
    assert len(records()) == 6


def test_a_server_that_was_never_there_is_told_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted_server(lambda _: OK) as server:
        pass
    assert run_client(server.port) == REFUSED
    assert "cannot reach the server" in capsys.readouterr().err


def test_a_server_that_comes_back_is_waited_for(folder: Path) -> None:
    later: list[ScriptedServer] = []

    def leave(number: int) -> Reply:
        if number == 0:
            threading.Thread(target=restart).start()
            assert first.closed.wait(SECONDS)
        return OK

    def restart() -> None:
        first.close()
        time.sleep(0.7)
        later.append(ScriptedServer(lambda _: OK, first.port))

    first = ScriptedServer(leave)
    assert run_client(first.port, "--concurrency", "1") == ANSWERED
    later[0].close()
    assert texts_of(first.bodies + later[0].bodies) == TEXTS
    assert (len(first.bodies), len(records())) == (1, 6)


def test_no_more_lines_are_read_than_are_asked_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    ahead: list[int] = []

    def counting(lines: Iterator[tuple[int, bytes]], work: Work) -> Iterator[tuple[int, bytes]]:
        for number, raw in lines:
            taken.append(number)
            ahead.append(len(taken) - len(work.results.tally.seconds))
            yield number, raw

    open_files = Work.__post_init__

    def counted(work: Work) -> None:
        open_files(work)
        work.lines = counting(work.lines, work)

    monkeypatch.setattr(Work, "__post_init__", counted)
    (folder / "in.jsonl").write_bytes((folder / "in.jsonl").read_bytes() * 20)
    together = threading.Barrier(3)

    def answer_three_at_once(_: int) -> Reply:
        together.wait(SECONDS)
        return OK

    with scripted_server(answer_three_at_once) as server:
        assert run_client(server.port, "--concurrency", "3") == ANSWERED
    assert len(taken) == 120
    assert max(ahead) == server.most_at_once == 3


def test_bad_lines_are_told_with_their_numbers_and_do_not_stop_the_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = (folder / "in.jsonl").read_bytes().splitlines()
    rows[1] = b"{"
    rows[3] = orjson.dumps({"example_id": "x", "messages": [["user", "audio", "none.wav"]]})
    rows.insert(2, b"")
    (folder / "in.jsonl").write_bytes(b"\n".join(rows))
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == LACKING
    failures = {record["line"]: record["kind"] for record in records("x.failures.jsonl")}
    assert failures == {2: "bad_line", 5: "missing_audio"}
    assert sorted(record["line"] for record in records()) == [1, 4, 6, 7]
    told = capsys.readouterr().err
    assert "in.jsonl, line 2: bad_line: not JSON" in told
    assert "in.jsonl, line 5: missing_audio: none.wav: no such file" in told


@pytest.mark.parametrize("options", [("--cfg", "2"), ("--input", "other.jsonl")])
def test_a_run_with_other_settings_is_refused(
    folder: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "other.jsonl").write_bytes((folder / "in.jsonl").read_bytes() + b"\n")
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED
        assert run_client(server.port, *options) == REFUSED
        assert "holds answers of another run" in capsys.readouterr().err
        assert run_client(server.port, *options, "--fresh") == ANSWERED
    assert len(server.bodies) == 12


def test_more_examples_are_added_to_what_is_there(folder: Path) -> None:
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port, "--num-examples", "2") == ANSWERED
        assert sorted(record["line"] for record in records()) == [1, 2]
        assert run_client(server.port, "--num-examples", "5") == ANSWERED
    assert texts_of(server.bodies) == TEXTS[:5]


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_is_done_and_goes_on(folder: Path, how: signal.Signals) -> None:
    halfway = threading.Event()

    def answer_three(number: int) -> Reply:
        if number == 3:
            halfway.set()
        if number >= 3:
            server.closed.wait(SECONDS)
        return OK

    command = [sys.executable, str(CLIENT), "--input", "in.jsonl", "--output", "x.jsonl", "--concurrency", "1"]
    with scripted_server(answer_three) as server:
        client = subprocess.Popen(
            [*command, "--port", str(server.port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert halfway.wait(SECONDS)
        client.send_signal(how)
        printed, told = client.communicate(timeout=SECONDS)
        assert client.returncode == INTERRUPTED, told
        assert "run the same command again to resume" in told
        assert "3 of 6 answered; 3 left" in printed
        assert "Traceback" not in told
    with scripted_server(lambda _: OK) as after:
        assert subprocess.run([*command, "--port", str(after.port)], capture_output=True).returncode == ANSWERED
    assert texts_of(after.bodies) == TEXTS[3:]
    assert [record["line"] for record in records()] == [1, 2, 3, 4, 5, 6]


def test_the_servers_key_is_sent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def first_request() -> bytes:
        seen: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if not seen.done():
                seen.set_result(await reader.readuntil(b"\r\n\r\n"))
            writer.close()

        async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            await asyncio.to_thread(
                subprocess.run, [sys.executable, str(CLIENT), "--port", str(port)], capture_output=True
            )
        return await seen

    monkeypatch.setenv("SPEECHLM_API_KEY", "secret")
    assert b"Authorization: Bearer secret" in asyncio.run(first_request())
