"""The clients against a small HTTP server that refuses, fails, hangs and disappears."""

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
from client_audiogen_cfg import DEFAULTS as SCRIPT
from clients_small import (
    CLIENT,
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
from core.command import ANSWERED, INTERRUPTED, LACKING, REFUSED
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
    request = st.builds(
        lambda fields, messages: {**fields, "messages": messages}, line, st.lists(message, min_size=1, max_size=3)
    )
    return st.lists(inner, max_size=4) | line | request


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with an input of six lines, two of which have the same id."""
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
@pytest.mark.parametrize("retry_after", ["0", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_requests_to_a_full_server_are_repeated_after_retry_after(folder: Path, retry_after: str, status: int) -> None:
    full: Reply = (status, {"Retry-After": retry_after}, b'{"error": {"message": "full"}}')
    with scripted_server(lambda number: full if number < 3 else OK) as server:
        assert run_client(server.port) == ANSWERED
    assert len(server.bodies) == 9
    assert sorted(record["line"] for record in records()) == [1, 2, 3, 4, 5, 6]


def test_requests_to_a_full_server_without_retry_after_are_repeated(folder: Path) -> None:
    with scripted_server(lambda number: (429, {}, b"") if number < 2 else OK) as server:
        assert run_client(server.port) == ANSWERED
    assert len(server.bodies) == 8


RETRY_AFTER = ("9" * 400, "soon", "-1", "1.5", "", "Fri, 31 Dec 9999 23:59:59 -2359", "²")


def test_a_retry_after_of_any_form_is_limited_by_the_timeout(folder: Path) -> None:
    count = len(RETRY_AFTER)
    Path("in.jsonl").write_bytes(lines(count))
    with scripted_server(lambda number: (503, {"Retry-After": RETRY_AFTER[number % count]}, b"")) as server:
        assert run_client(server.port, "--timeout", "3", "--concurrency", str(count)) == LACKING
    assert len(server.bodies) >= count
    kinds = [record["kind"] for record in records("x.failures.jsonl")]
    assert len(kinds) == count
    assert set(kinds) <= {"overloaded", "timeout"}  # the latter if the limit is reached during a retry


def test_proxies_are_not_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED


def test_a_redirection_is_reported_and_not_followed(folder: Path) -> None:
    with (
        scripted_server(lambda _: OK) as target,
        scripted_server(lambda _: (307, {"Location": f"http://127.0.0.1:{target.port}/"}, b"")) as redirecting,
    ):
        assert run_client(redirecting.port) == LACKING
    assert not target.bodies
    assert {record["kind"] for record in records("x.failures.jsonl")} == {"http_307"}


@pytest.mark.parametrize("key", ["a\nb", "kéy", "a\x7f"])
def test_a_key_that_is_not_a_valid_header_value_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    monkeypatch.setenv("SPEECHLM_API_KEY", key)
    assert run_client(1) == REFUSED
    assert capsys.readouterr().err == "SPEECHLM_API_KEY: must be printable ASCII\n"


def test_an_invalid_port_is_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_client(99999) == REFUSED
    assert "99999" in capsys.readouterr().err


def test_a_huge_line_is_sent_unchanged(folder: Path) -> None:
    text = "  " + "long " * 2_000_000 + "\u2028 "
    Path("in.jsonl").write_bytes(orjson.dumps({"messages": [["user", "text", text]]}) + b"\r\n")
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED
    assert texts_of(server.bodies) == [text]


def test_an_answer_without_usage_is_accepted(folder: Path) -> None:
    without_usage = orjson.dumps({"choices": [{"message": {"content": "Yes."}}], "usage": None})
    with scripted_server(lambda _: (200, {}, without_usage)) as server:
        assert run_client(server.port) == ANSWERED
    assert {(record["text"], record["prompt_tokens"], record["finish_reason"]) for record in records()} == {
        ("Yes.", 0, "unknown")
    }


@given(st.lists(st.recursive(VALUES, nested, max_leaves=20), min_size=20, max_size=30))
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
        assert run_client(server.port, *options) in (ANSWERED, LACKING)
    answered, failed = (records(str(folder / name)) for name in ("x.jsonl", "x.failures.jsonl"))
    assert sorted(record["line"] for record in (*answered, *failed)) == list(range(1, len(rows) + 1))


def test_a_failure_records_everything_that_a_retry_needs(folder: Path) -> None:
    rows = [b"not JSON", b'{"example_id": "a", "messages": "x"}', lines(1).strip()]
    Path("in.jsonl").write_bytes(b"\n".join(rows))
    with scripted_server(lambda _: (500, {}, b"")) as server:
        assert run_client(server.port, "--concurrency", "1") == LACKING
    failures = records("x.failures.jsonl")
    assert [(record["line"], record["example_id"]) for record in failures] == [(1, "line-1"), (2, "a"), (3, "id0")]
    assert [record["digest"] for record in failures] == [digest_of_line(row) for row in rows]
    assert {record["input"] for record in failures} == {"in.jsonl"}


def test_requests_to_a_server_that_stays_full_time_out(folder: Path) -> None:
    with scripted_server(lambda _: (503, {"Retry-After": "60"}, b"")) as server:
        assert run_client(server.port, "--timeout", "1", "--concurrency", "6") == LACKING
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


def test_a_request_that_times_out_is_not_repeated(folder: Path) -> None:
    hanging = threading.Event()
    with scripted_server(lambda number: OK if number else (hanging.wait(SECONDS) and None) or None) as server:
        assert run_client(server.port, "--timeout", "2") == LACKING
        hanging.set()
    assert texts_of(server.bodies) == TEXTS
    assert [record["kind"] for record in records("x.failures.jsonl")] == ["timeout"]


def test_an_invalid_answer_is_a_failure(folder: Path) -> None:
    with scripted_server(lambda number: OK if number else (200, {}, b"<html>")) as server:
        assert run_client(server.port) == LACKING
    assert [record["kind"] for record in records("x.failures.jsonl")] == ["bad_answer"]


def test_the_next_run_retries_failures(folder: Path) -> None:
    with scripted_server(lambda number: (500, {}, b"") if number < 2 else OK) as server:
        assert run_client(server.port) == LACKING
        assert run_client(server.port) == ANSWERED
    assert len(server.bodies) == 8
    assert sorted(record["line"] for record in records()) == [1, 2, 3, 4, 5, 6]
    assert not Path("x.failures.jsonl").exists()


def test_a_finished_run_sends_no_requests(folder: Path) -> None:
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED
    assert run_client(server.port) == ANSWERED
    assert len(records()) == 6


def test_an_unreachable_server_is_reported_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with scripted_server(lambda _: OK) as server:
        pass
    assert run_client(server.port) == REFUSED
    assert "cannot reach the server" in capsys.readouterr().err


def test_the_client_waits_for_a_server_that_restarts(folder: Path) -> None:
    later: list[ScriptedServer] = []

    def close_after_first(number: int) -> Reply:
        if number == 0:
            threading.Thread(target=restart).start()
            assert first.closed.wait(SECONDS)
        return OK

    def restart() -> None:
        first.close()
        time.sleep(0.7)
        later.append(ScriptedServer(lambda _: OK, first.port))

    first = ScriptedServer(close_after_first)
    assert run_client(first.port, "--concurrency", "1") == ANSWERED
    later[0].close()
    assert texts_of(first.bodies + later[0].bodies) == TEXTS
    assert (len(first.bodies), len(records())) == (1, 6)


def test_no_more_lines_are_read_ahead_than_the_concurrency(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    ahead: list[int] = []

    def counting(lines: Iterator[tuple[int, bytes]], work: Work) -> Iterator[tuple[int, bytes]]:
        for number, raw in lines:
            read.append(number)
            ahead.append(len(read) - len(work.results.tally.seconds))
            yield number, raw

    open_files = Work.__post_init__

    def start(work: Work) -> None:
        open_files(work)
        work.lines = counting(work.lines, work)

    monkeypatch.setattr(Work, "__post_init__", start)
    (folder / "in.jsonl").write_bytes((folder / "in.jsonl").read_bytes() * 20)
    barrier = threading.Barrier(3)

    def answer_three_at_once(_: int) -> Reply:
        barrier.wait(SECONDS)
        return OK

    with scripted_server(answer_three_at_once) as server:
        assert run_client(server.port, "--concurrency", "3") == ANSWERED
    assert len(read) == 120
    assert max(ahead) == server.most_at_once == 3


def test_bad_lines_are_reported_with_their_numbers_and_do_not_stop_the_run(
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
    errors = capsys.readouterr().err
    assert "in.jsonl, line 2: bad_line: not JSON" in errors
    assert "in.jsonl, line 5: missing_audio: none.wav: no such file" in errors


@pytest.mark.parametrize("options", [("--cfg", "2"), ("--input", "other.jsonl")])
def test_a_run_with_other_settings_is_refused(
    folder: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "other.jsonl").write_bytes((folder / "in.jsonl").read_bytes() + b"\n")
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED
        assert run_client(server.port, *options) == REFUSED
        assert "contains answers of another run" in capsys.readouterr().err
        assert run_client(server.port, *options, "--fresh") == ANSWERED
    assert len(server.bodies) == 12


def test_more_examples_are_added_to_existing_results(folder: Path) -> None:
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port, "--num-examples", "2") == ANSWERED
        assert sorted(record["line"] for record in records()) == [1, 2]
        assert run_client(server.port, "--num-examples", "5") == ANSWERED
    assert texts_of(server.bodies) == TEXTS[:5]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_its_results_and_is_resumed(folder: Path, signal_number: signal.Signals) -> None:
    halfway = threading.Event()

    def answer_three(number: int) -> Reply:
        if number == 3:
            halfway.set()
        if number >= 3:
            server.closed.wait(SECONDS)
        return OK

    options = ("--output", "x.jsonl", "--concurrency", "1")
    with scripted_server(answer_three) as server:
        client = subprocess.Popen(
            [sys.executable, str(CLIENT), "--port", str(server.port), "--input", "in.jsonl", *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert halfway.wait(SECONDS)
        client.send_signal(signal_number)
        printed, errors = client.communicate(timeout=SECONDS)
        assert client.returncode == INTERRUPTED, errors
        assert "run the same command again to resume" in errors
        assert "3 of 6 answered; 3 left" in printed
        assert "Traceback" not in errors
    with scripted_server(lambda _: OK) as second_server:
        assert run_client(second_server.port, *options, defaults=SCRIPT) == ANSWERED
    assert texts_of(second_server.bodies) == TEXTS[3:]
    assert [record["line"] for record in records()] == [1, 2, 3, 4, 5, 6]


def test_the_servers_key_is_sent(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPEECHLM_API_KEY", "secret")
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED
    assert len(server.authorizations) > len(server.bodies)
    assert set(server.authorizations) == {"Bearer secret"}
