"""No file is lost: what the clients write, what they refuse to overwrite, and their exit statuses."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import orjson
import pytest
from client_audiogen_cfg import DEFAULTS as SCRIPT
from clients_small import CLIENT, DEFAULTS, OK, SECONDS, Reply, lines, records, run_client, scripted_server
from core.command import ANSWERED, INTERRUPTED, LACKING, REFUSED, main
from core.failure import Failure, Refused
from core.ledger import Ledger, check, write
from core.results import Results
from core.sounds import choose_sounds
from core.source import Source

NO_SERVER = 1
"""A port without a server, for runs that are refused before the first request."""
WRITING = replace(DEFAULTS, tasks=("text",))
PRECIOUS = b'{"example_id": "mine", "messages": [["user", "text", "keep me"]]}\n'
OUTPUTS = ("x.jsonl", "x.run.json", "x.failures.jsonl", "x.results.json", "x.summary.json", "x.summary.png")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with an input of six lines."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in.jsonl").write_bytes(lines(6))
    return tmp_path


def all_files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def first_sound() -> Path:
    return next(iter(choose_sounds(Source(Path("in.jsonl")), None, Path("sounds"), "x").values()))


# Existing files


@pytest.mark.parametrize("options", [(), ("--fresh",)])
@pytest.mark.parametrize("name", [*OUTPUTS, "sounds"])
@pytest.mark.parametrize("content", [PRECIOUS, b'{"line": 1}\n', b"{", b"RIFF"])
def test_a_file_that_is_not_the_runs_own_is_refused_by_name(
    folder: Path, name: str, content: bytes, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    path = first_sound() if name == "sounds" else Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert run_client(NO_SERVER, *options) == REFUSED
    message = capsys.readouterr().err
    assert str(path) in message
    assert "--fresh" not in message
    assert path.read_bytes() == content


def by_name(path: Path) -> Path:
    return path


def through_a_link(path: Path) -> Path:
    link = path.with_name("link.jsonl")
    link.symlink_to(path.name)
    return link


def through_a_hard_link(path: Path) -> Path:
    link = path.with_name("hard.jsonl")
    link.hardlink_to(path)
    return link


def by_an_indirect_path(path: Path) -> Path:
    (path.parent / "sub").mkdir()
    return path.parent / "sub" / ".." / path.name


def by_absolute_path(path: Path) -> Path:
    return path.absolute()


def through_a_descriptor(path: Path) -> Path:
    link = path.with_name("descriptor.jsonl")
    link.symlink_to(f"/proc/{os.getpid()}/fd/{os.open(path, os.O_RDONLY)}")
    return link


PATHS = (by_name, through_a_link, through_a_hard_link, by_an_indirect_path, by_absolute_path, through_a_descriptor)


@pytest.mark.parametrize("options", [(), ("--fresh",)])
@pytest.mark.parametrize("content", [lines(3), b""])
@pytest.mark.parametrize("path_to", PATHS)
def test_the_input_is_not_overwritten_under_any_name(
    folder: Path,
    path_to: Callable[[Path], Path],
    content: bytes,
    options: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("in.jsonl").write_bytes(content)
    output = path_to(Path("in.jsonl"))
    assert run_client(NO_SERVER, "--output", str(output), *options) == REFUSED
    message = capsys.readouterr().err
    assert "is the same file as --input in.jsonl" in message
    assert "--fresh" not in message
    assert Path("in.jsonl").read_bytes() == content


@pytest.mark.parametrize("name", OUTPUTS[1:])
def test_an_input_with_the_name_of_an_output_is_not_overwritten(folder: Path, name: str) -> None:
    Path(name).write_bytes(PRECIOUS)
    assert main(DEFAULTS, ["--port", "1", "--input", name, "--fresh"]) == REFUSED
    assert Path(name).read_bytes() == PRECIOUS


def test_a_clip_that_the_input_names_is_not_overwritten(folder: Path) -> None:
    Path("clip.jsonl").write_bytes(b"RIFF sound")
    Path("in.jsonl").write_bytes(b'{"messages": [["user", "audio", "clip.jsonl"]]}\n')
    assert run_client(NO_SERVER, "--output", "clip.jsonl", "--fresh") == REFUSED
    assert Path("clip.jsonl").read_bytes() == b"RIFF sound"


def a_folder(path: Path) -> None:
    path.mkdir()


def a_device(path: Path) -> None:
    path.symlink_to("/dev/full")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize("make", [a_folder, a_device, a_pipe])
@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_that_is_not_a_regular_file_is_refused_by_name(
    folder: Path, name: str, make: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    make(Path(name))
    assert run_client(NO_SERVER, "--fresh") == REFUSED
    assert f"{name}: must be a file" in capsys.readouterr().err


@pytest.mark.parametrize("make", [a_folder, a_device, a_pipe])
def test_an_input_that_is_not_a_regular_file_is_refused(
    folder: Path, make: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("in.jsonl").unlink()
    make(Path("in.jsonl"))
    assert run_client(NO_SERVER) == REFUSED
    assert "--input in.jsonl: must be a file" in capsys.readouterr().err


def test_a_dangling_link_is_followed(folder: Path) -> None:
    Path("x.jsonl").symlink_to("elsewhere.jsonl")
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED
        assert run_client(server.port, "--fresh") == ANSWERED
    assert Path("x.jsonl").is_symlink()
    assert len(records("elsewhere.jsonl")) == 6


@pytest.mark.parametrize("options", [(), ("--fresh",)])
def test_results_of_another_task_are_refused(
    folder: Path, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED
    before = all_files(folder)
    capsys.readouterr()
    assert run_client(NO_SERVER, *options, defaults=WRITING) == REFUSED
    message = capsys.readouterr().err
    assert "task was 'audiogen_cfg' there and is 'text' here" in message
    assert "--fresh" not in message
    assert all_files(folder) == before


@pytest.mark.parametrize("options", [(), ("--fresh",)])
@pytest.mark.parametrize("name", [*OUTPUTS, "sounds"])
def test_a_file_that_was_changed_by_hand_is_refused_by_name(
    folder: Path, name: str, options: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    path = first_sound() if name == "sounds" else Path(name)
    with scripted_server(lambda number: (500, {}, b"") if number == 5 else OK) as server:
        assert run_client(server.port, "--concurrency", "1") == LACKING
        capsys.readouterr()
        path.write_bytes(b"[" + path.read_bytes())
        before = all_files(folder)
        assert run_client(server.port, *options) == REFUSED
    assert str(path) in capsys.readouterr().err
    assert all_files(folder) == before


def test_sounds_of_another_run_in_the_same_folder_are_refused(folder: Path) -> None:
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED
        sounds = all_files(folder / "sounds")
        assert run_client(server.port, "--output", "other/x.jsonl") == REFUSED
        assert run_client(server.port, "--output", "y.jsonl") == ANSWERED
    assert len(server.bodies) == 12
    assert all_files(folder / "sounds").items() > sounds.items()


def test_a_file_written_by_another_program_during_the_run_is_not_lost(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def overwrite(number: int) -> Reply:
        Path("x.summary.json").write_bytes(PRECIOUS)
        return OK

    with scripted_server(overwrite) as server:
        assert run_client(server.port) == REFUSED
    assert "x.summary.json: not written by this run" in capsys.readouterr().err
    assert Path("x.summary.json").read_bytes() == PRECIOUS
    assert len(records()) == 6


def test_fresh_replaces_all_files_of_the_run(folder: Path) -> None:
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED
        earlier = Path("kept.jsonl")
        earlier.hardlink_to("x.jsonl")
        assert run_client(server.port, "--fresh") == ANSWERED
    assert len(server.bodies) == 12
    assert [len(records()), len(records(str(earlier)))] == [6, 6]


def test_nothing_changes_if_the_server_cannot_be_reached(folder: Path) -> None:
    with scripted_server(lambda number: (500, {}, b"") if number == 0 else OK) as server:
        assert run_client(server.port) == LACKING
    before = all_files(folder)
    for options in ((), ("--fresh",)):
        assert run_client(NO_SERVER, *options) == REFUSED
        assert all_files(folder) == before


def test_the_folder_for_sounds_is_checked_before_the_first_request(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("taken").write_bytes(PRECIOUS)
    for place in ("taken", "taken/below", "/proc/sounds", "nul\0"):
        with scripted_server(lambda _: OK) as server:
            assert run_client(server.port, "--save-dir", place) == REFUSED
        assert not server.bodies
        assert f"--save-dir {place}" in capsys.readouterr().err


# Exit statuses


def test_an_answer_missing_from_the_output_at_the_end_is_reported(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def cut(number: int) -> Reply:
        if number == 3:
            os.truncate("x.jsonl", len(Path("x.jsonl").read_bytes().splitlines(True)[0]))
        return OK

    with scripted_server(cut) as server:
        assert run_client(server.port, "--concurrency", "1") == LACKING
        assert "no answer in x.jsonl to line 2, 3" in capsys.readouterr().err
        assert run_client(server.port) == ANSWERED
    assert sorted(record["line"] for record in records()) == [1, 2, 3, 4, 5, 6]


def test_a_sound_missing_at_the_end_is_reported(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def remove(number: int) -> Reply:
        for path in Path("sounds").glob("000001_*.wav"):
            path.unlink()
        return OK

    with scripted_server(remove) as server:
        assert run_client(server.port, "--concurrency", "1") == LACKING
    assert "x.jsonl: the sound of line 1 is missing" in capsys.readouterr().err


@pytest.mark.parametrize("change", [lines(7), lines(5), lines(6).replace(b"Say 2", b"Sag 2")])
def test_an_input_that_changes_during_the_run_is_reported(
    folder: Path, change: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    def overwrite(number: int) -> Reply:
        if number == 2:
            Path("new.jsonl").write_bytes(change)
            os.replace("new.jsonl", "in.jsonl")
        return OK

    with scripted_server(overwrite) as server:
        assert run_client(server.port, "--concurrency", "1") == REFUSED
        assert "--input in.jsonl: changed while it was read" in capsys.readouterr().err
        assert run_client(server.port) == REFUSED
    assert "input was" in capsys.readouterr().err
    assert len(records()) == 6


def test_a_run_on_an_empty_input_succeeds(folder: Path) -> None:
    Path("in.jsonl").write_bytes(b"")
    assert run_client(NO_SERVER) == ANSWERED
    assert orjson.loads(Path("x.results.json").read_bytes()) == {}


def test_a_full_disk_ends_the_run_and_loses_nothing(folder: Path) -> None:
    Path("in.jsonl").write_bytes(lines(60))
    options = ("--output", "x.jsonl")
    with scripted_server(lambda _: OK) as server:
        client = CLIENT.with_name("client.py")
        command = [sys.executable, str(client), "--port", str(server.port), "--input", "in.jsonl", *options]
        limited = ["sh", "-c", 'ulimit -f 16; exec "$@"', "sh", *command]
        result = subprocess.run(limited, capture_output=True, text=True)
        assert result.returncode == REFUSED, result.stderr
        assert "x.jsonl: File too large; run the same command again to resume" in result.stderr
        complete = Path("x.jsonl").read_bytes().splitlines(True)[:-1]
        assert 5 < len(complete) < 60
        assert run_client(server.port, *options, defaults=WRITING) == ANSWERED
    assert Path("x.jsonl").read_bytes().splitlines(True)[: len(complete)] == complete
    assert sorted(record["line"] for record in records()) == list(range(1, 61))


@pytest.mark.parametrize("seed", range(1))
def test_a_client_that_is_killed_repeatedly_neither_loses_nor_repeats_an_answer(folder: Path, seed: int) -> None:
    random = Random(seed)
    Path("in.jsonl").write_bytes(lines(80))
    options = ("--output", "x.jsonl", "--concurrency", "4")
    command = [sys.executable, str(CLIENT), "--input", "in.jsonl", *options]

    def slowly(_: int) -> Reply:
        time.sleep(0.01)
        return OK

    with scripted_server(slowly) as server:
        status = None
        for signal_number in (signal.SIGKILL, signal.SIGINT, signal.SIGKILL):
            before = len(server.bodies)
            client = subprocess.Popen([*command, "--port", str(server.port)], stderr=subprocess.DEVNULL)
            request_count = before + random.randrange(1, 15)
            while client.poll() is None and len(server.bodies) < request_count:
                time.sleep(0.01)
            time.sleep(random.random() / 20)
            client.send_signal(signal_number)
            status = client.wait(SECONDS)
            assert status in (-signal.SIGKILL, INTERRUPTED, ANSWERED)
            assert len({record["line"] for record in records(torn=True)}) == len(records(torn=True))
        assert run_client(server.port, *options, defaults=SCRIPT) == ANSWERED
    assert sorted(record["line"] for record in records()) == list(range(1, 81))
    assert orjson.loads(Path("x.results.json").read_bytes()).keys() == {f"id{n // 2 * 2}" for n in range(1, 81)} | {
        f"id{n} (line {n + 1})" for n in range(2, 80, 2)
    }


def test_a_summary_that_cannot_be_printed_is_no_failure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Closing the file fails if anything is left to print, as the end of a process would.
    with scripted_server(lambda _: OK) as server, open("/dev/full", "w") as full:
        monkeypatch.setattr("sys.stdout", full)
        assert run_client(server.port) == ANSWERED


# Results


def record(line: int, **fields: Any) -> dict[str, Any]:
    return {
        "line": line,
        "example_id": "same for all",
        "digest": "0" * 16,
        "text": "x",
        "finish_reason": "stop",
        "audio_seconds": 2.0,
        "seconds": 1.0,
        "finished": 1e9 + line,
        "prompt_tokens": 1,
        "completion_tokens": 2,
        "audio_tokens": 3,
        "warnings": [],
        **fields,
    }


def reopened(path: Path, settings: dict[str, Any] | None = None, *, fresh: bool = False) -> Results:
    results = Results(path, settings or {"cfg": 3.0}, fresh=fresh)
    results.begin()
    results.close()
    return results


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A results file with lines 1, 5 and 2."""
    results = Results(tmp_path / "out" / "x.jsonl", {"cfg": 3.0})
    results.begin()
    for line in (1, 5, 2):
        results.add(record(line))
    results.close()
    return results.path


def test_written_lines_are_done(written: Path) -> None:
    results = reopened(written)
    assert [line for line in range(9000) if results.is_done(line)] == [1, 2, 5]
    assert results.done_up_to(4) == 2
    assert len(results.starts) == 2


@pytest.mark.parametrize("cut", [2, 30, 100])
def test_an_incomplete_last_record_is_removed(written: Path, cut: int) -> None:
    content = written.read_bytes()
    written.write_bytes(content[:-cut])
    assert not reopened(written).is_done(2)
    assert written.read_bytes() == b"".join(content.splitlines(keepends=True)[:2])


@pytest.mark.parametrize("settings", [{"cfg": 1.0}, {}, {"cfg": 3.0, "input": "x"}])
def test_different_settings_are_refused_by_name_and_change_nothing(written: Path, settings: dict[str, Any]) -> None:
    before = {path: path.read_bytes() for path in written.parent.iterdir()}
    with pytest.raises(Refused, match=r"(cfg|input) was .*; choose another --output$"):
        Results(written, settings)
    assert {path: path.read_bytes() for path in written.parent.iterdir()} == before


def test_fresh_starts_over(written: Path) -> None:
    assert reopened(written, {"cfg": 1.0}, fresh=True).done_up_to(9) == 0
    assert written.read_bytes() == b""


def test_results_not_written_by_this_run_are_refused(written: Path) -> None:
    written.with_name("x.run.json").unlink()
    with pytest.raises(Refused, match=r"x\.jsonl, line 1: not a record of this run"):
        Results(written, {"cfg": 3.0})


FOREIGN: tuple[dict[str, Any], ...] = ({}, {"line": 9}, {**record(9), "line": "9"}, {**record(9), "line": 0}, record(5))


@pytest.mark.parametrize("line", [b"{}\n", b"not json\n", b"[]\n", *FOREIGN])
def test_results_with_a_foreign_record_are_refused_by_line(written: Path, line: bytes | dict[str, Any]) -> None:
    with written.open("ab") as file:
        ledger = Ledger(written.with_name("x.run.json"))
        file.write(ledger.record(line) if isinstance(line, dict) else line)
    with pytest.raises(Refused, match="line 4"):
        Results(written, {"cfg": 3.0})


def test_two_clients_cannot_write_the_same_file(tmp_path: Path) -> None:
    first = Results(tmp_path / "x.jsonl", {})
    with pytest.raises(Refused, match="another client"):
        Results(tmp_path / "x.jsonl", {})
    first.close()
    Results(tmp_path / "x.jsonl", {}).close()


def test_failures_are_recorded_and_retried(written: Path) -> None:
    results = Results(written, {"cfg": 3.0})
    results.begin()
    results.fail({"line": 3, "example_id": "a"}, Failure("timeout", "too late"))
    results.close()
    (failure,) = map(orjson.loads, written.with_name("x.failures.jsonl").read_bytes().splitlines())
    assert (failure["line"], failure["example_id"], failure["kind"]) == (3, "a", "timeout")
    assert failure["message"] == "too late"
    assert not reopened(written).is_done(3)
    assert not written.with_name("x.failures.jsonl").exists()


def test_a_complete_last_record_without_a_line_end_is_kept(written: Path) -> None:
    written.write_bytes(written.read_bytes()[:-1])
    results = Results(written, {"cfg": 3.0})
    results.begin()
    results.add(record(3))
    results.close()
    assert [fields["line"] for fields in records(str(written))] == [1, 5, 2, 3]


def test_records_of_another_run_among_the_results_are_refused(written: Path, tmp_path: Path) -> None:
    other_run = Results(tmp_path / "y.jsonl", {"cfg": 3.0})
    other_run.begin()
    other_run.add(record(9))
    other_run.close()
    with written.open("ab") as file:
        file.write((tmp_path / "y.jsonl").read_bytes())
    with pytest.raises(Refused, match="line 4: not a record of this run"):
        Results(written, {"cfg": 3.0})


def test_a_moved_run_is_resumed(written: Path) -> None:
    moved = written.parent.rename(written.parent.with_name("elsewhere")) / written.name
    assert reopened(moved).done_up_to(9) == 3


def test_a_ledger_knows_its_writes_even_if_it_was_killed_while_writing(tmp_path: Path) -> None:
    ledger, path = Ledger(tmp_path / "x.run.json"), tmp_path / "file"
    ledger.settings = {}
    write(path, [b"first"], [ledger])
    ledger.expect(path, "of what was never written")
    check(path, [Ledger(tmp_path / "x.run.json")])
    path.write_bytes(b"third")
    with pytest.raises(Refused, match="file: not written by this run, or changed since"):
        check(path, [Ledger(tmp_path / "x.run.json")])


def test_no_scratch_file_is_left(folder: Path) -> None:
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED
    assert not list(folder.rglob(".*"))
