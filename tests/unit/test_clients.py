"""Parts of the clients: lines, messages, bodies, matching of answers, result files, samples."""

import json
import re
import runpy
import tracemalloc
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
import soundfile
from core.answer import read_answer
from core.audio import AudioFiles
from core.failure import Failure, Kind
from core.lines import GROUPS, MODALITIES, ROLES, Line, Message, id_of, parse_line
from core.messages import split_ground_truth, to_chat, to_speak_about, written_history
from core.options import SAMPLES, TASKS, Defaults, jobs, parse
from core.picture import draw
from core.request import Task
from core.run import Job, start
from core.sounds import KEPT, choose_sounds
from core.source import Source
from core.summary import summarize, table
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[2]
GUIDE_LINE = {
    "example_id": "unique_id",
    "messages": [
        ["system", "text", "System prompt here."],
        ["user", "audio", "/path/to/audio.wav"],
        ["user", "text", "User question here."],
        ["assistant", "text", "Ground truth (skipped for audiogen)."],
        ["assistant", "audio", "/path/to/ground_truth.flac"],
    ],
}
TEXTS = st.text(min_size=1, max_size=20)
MESSAGES = st.tuples(st.sampled_from(ROLES), st.sampled_from(MODALITIES), TEXTS)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["example_id", "messages", "x"]), inner)
    ),
    max_leaves=12,
)
"""Anything that Python's json module writes, including NaN and lone surrogates."""
MESSAGE = (Message("user", "text", " x "),)
BOOKKEEPING = ("example_id", "answer", "choices", *GROUPS, "unknown")


def messages_of(line: dict[str, Any]) -> tuple[Message, ...]:
    return parse_line(orjson.dumps(line)).messages


# Lines


def test_the_line_in_the_guide_is_read() -> None:
    line = parse_line(orjson.dumps(GUIDE_LINE))
    assert line.example_id == "unique_id"
    assert [list(message) for message in line.messages] == GUIDE_LINE["messages"]
    assert (line.answer, line.choices, line.groups) == (None, (), {})


@settings(max_examples=30)
@given(st.lists(MESSAGES, min_size=1, max_size=5), TEXTS, st.lists(TEXTS, max_size=3), st.none() | TEXTS)
def test_a_line_is_read_as_it_was_written(
    messages: list[tuple[str, str, str]], example_id: str, choices: list[str], answer: str | None
) -> None:
    fields = {"example_id": example_id, "messages": messages, "choices": choices, "answer": answer, "task": "sound"}
    line = parse_line(b"\xef\xbb\xbf" + json.dumps(fields).encode() + b"\r\n")
    expected = Line(
        example_id, tuple(Message(*message) for message in messages), answer, tuple(choices), {"task": "sound"}
    )
    assert line == expected


@given(JSON)
def test_a_line_of_any_json_is_read_or_refused(value: Any) -> None:
    with suppress(Failure):
        assert parse_line(json.dumps(value).encode()).messages


@given(st.dictionaries(st.sampled_from(BOOKKEEPING), JSON))
def test_no_bookkeeping_field_fails_a_line(fields: dict[str, Any]) -> None:
    raw = json.dumps({**fields, "messages": GUIDE_LINE["messages"]}).encode()
    line = parse_line(raw, 7)
    assert len(line.messages) == 5
    assert line.example_id == id_of(raw, 7)
    assert orjson.dumps([line.example_id, line.answer, line.choices, line.groups, line.notes])


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"example_id": 12, "sub-category": "", "answer": ""}, Line("12", MESSAGE)),
        ({"example_id": None, "answer": None, "choices": None}, Line("line-7", MESSAGE)),
        ({"example_id": "", "category": 3, "task": None}, Line("line-7", MESSAGE, groups={"category": "3"})),
        ({"answer": 5, "choices": [4, 5]}, Line("line-7", MESSAGE, "5", ("4", "5"))),
        ({"answer": float("nan"), "choices": []}, Line("line-7", MESSAGE)),
        ({"answer": [], "choices": {}, "task": {}, "example_id": []}, Line("line-7", MESSAGE)),
        (
            {"answer": 1.0, "choices": [1, 2.0, 2.5], "difficulty": 3.0},
            Line("line-7", MESSAGE, "1", ("1", "2", "2.5"), {"difficulty": "3"}),
        ),
    ],
)
def test_bookkeeping_fields_are_read(fields: dict[str, Any], expected: Line) -> None:
    assert parse_line(json.dumps({**fields, "messages": [["user", "text", " x "]]}).encode(), 7) == expected


def test_tabs_in_a_text_are_kept() -> None:
    line = parse_line(b'{"messages": [["user", "text", "a\tb"]], "task": "a\tb"}')
    assert (line.messages[0].content, line.groups) == ("a\tb", {"task": "a\tb"})


def test_unusable_choices_are_noted() -> None:
    line = parse_line(b'{"messages": [["user", "text", "x"]], "choices": "a or b", "answer": ["a"]}')
    assert (line.answer, line.choices) == (None, ())
    assert line.notes == (
        "answer: must be a string; got ['a']; ignored for scoring",
        "choices: must be a list of strings; got 'a or b'; ignored for scoring",
    )


@given(st.binary(max_size=40))
def test_a_line_of_arbitrary_bytes_is_refused(raw: bytes) -> None:
    with pytest.raises(Failure):
        parse_line(raw)


BAD = {
    "not json": (b"{", "not JSON"),
    "not utf-8": (b'{"example_id": "\xff"}', "not JSON"),
    "no object": (b"[1]", "must be a JSON object; got [1]"),
    "no messages": (b'{"example_id": "a"}', "messages: must be a list"),
    "empty messages": (b'{"example_id": "a", "messages": []}', "messages: must be a list"),
    "two fields": (b'{"example_id": "a", "messages": [["user", "x"]]}', "messages[0]: must be [role, modality"),
    "role": (b'{"example_id": "a", "messages": [["me", "text", "x"]]}', "role must be one of system, user, assistant"),
    "unhashable role": (b'{"example_id": "a", "messages": [[[], "text", "x"]]}', "role must be one of"),
    "modality": (b'{"example_id": "a", "messages": [["user", "image", "x"]]}', "modality must be one of text, audio"),
    "null": (b'{"example_id": "a", "messages": [["user", "text", null]]}', "messages[0]: content: must be a string"),
    "list": (b'{"example_id": "a", "messages": [["user", "text", ["x"]]]}', "messages[0]: content: must be a string"),
    "NaN": (b'{"messages": [["user", "text", NaN]]}', "messages[0]: content: must be a string"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_refused_with_its_error(name: str) -> None:
    raw, message = BAD[name]
    with pytest.raises(Failure) as failure:
        parse_line(raw)
    assert message in str(failure.value)


def test_blank_lines_are_skipped_but_numbered(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\nfirst\n \r\nsecond\r\n\nthird\n\n")
    source = Source(path)
    assert list(source.lines()) == [(2, b"first\n"), (4, b"second\r\n"), (6, b"third\n")]
    assert list(source.lines(2)) == [(2, b"first\n"), (4, b"second\r\n")]
    assert (source.survey().lines, source.survey().last) == (3, 6)
    assert (source.survey(2).lines, source.survey(2).last) == (2, 4)
    assert source.survey(2).sha256 == source.survey().sha256


def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    raw = orjson.dumps({"example_id": "a", "messages": [["user", "text", "x" * 200]]}) + b"\n"
    path.write_bytes(raw * 40_000)
    tracemalloc.start()
    try:
        assert Source(path).survey().lines == sum(1 for _ in Source(path).lines()) == 40_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 10


# Messages


def test_audio_generation_skips_the_assistant() -> None:
    messages = to_speak_about(messages_of(GUIDE_LINE))
    assert [list(message) for message in messages] == GUIDE_LINE["messages"][:3]


def test_the_assistants_last_turn_is_the_answer_and_is_not_sent() -> None:
    question, ground_truth = split_ground_truth(messages_of(GUIDE_LINE))
    assert [list(message) for message in question] == GUIDE_LINE["messages"][:3]
    assert ground_truth == "Ground truth (skipped for audiogen)."


def test_the_assistants_earlier_turns_are_sent() -> None:
    line = {
        "example_id": "a",
        "messages": [["user", "text", "1"], ["assistant", "text", "2"], ["user", "text", "3"]],
    }
    question, ground_truth = split_ground_truth(messages_of(line))
    assert len(written_history(question)[0]) == 3
    assert ground_truth is None


def test_an_assistants_audio_next_to_a_text_is_left_out_and_noted() -> None:
    messages = [Message("assistant", "text", "a"), Message("assistant", "audio", "b"), Message("user", "audio", "c")]
    written, notes = written_history(messages)
    assert written == [messages[0], messages[2]]
    assert "left out" in notes[0]


def test_an_audio_only_turn_of_the_assistant_cannot_be_sent() -> None:
    with pytest.raises(Failure) as failure:
        written_history([Message("assistant", "audio", "b"), Message("user", "text", "c")])
    assert failure.value.kind == "spoken_history"


def test_audio_is_sent_unchanged_in_any_format(tmp_path: Path) -> None:
    (tmp_path / "clip.FLAC").write_bytes(b"sound")
    (message,) = to_chat([Message("user", "audio", "clip.FLAC")], AudioFiles(tmp_path))
    audio = {"data": "c291bmQ=", "format": "flac"}
    assert message == {"role": "user", "content": [{"type": "input_audio", "input_audio": audio}]}


def test_audio_not_next_to_the_input_is_looked_up_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "clip.wav").write_bytes(b"sound")
    monkeypatch.chdir(tmp_path / "here")
    assert to_chat([Message("user", "audio", "clip.wav")], AudioFiles(tmp_path))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("none.wav", "missing_audio"),
        ("empty.wav", "unreadable_audio"),
        ("folder", "unreadable_audio"),
        ("x" * 5000, "unreadable_audio"),
        ("nul\0.wav", "missing_audio"),
        ("/dev/zero", "unreadable_audio"),
    ],
)
def test_unreadable_audio_is_named(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(Failure) as failure:
        to_chat([Message("user", "audio", name)], AudioFiles(tmp_path))
    assert failure.value.kind == kind
    assert str(failure.value).startswith(name)


def test_a_line_with_only_assistant_turns_is_a_bad_line() -> None:
    with pytest.raises(Failure, match="nothing to send"):
        to_chat(to_speak_about([Message("assistant", "text", "x")]), AudioFiles(Path()))


# Bodies, exactly as in the usage guide

CHAT: list[dict[str, Any]] = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "Read this aloud in a calm voice."},
]
HEARD: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x", "format": "wav"}}]}
]
XARGS = {
    "mode": "text_audio",
    "phase": "text",
    "text_temperature": 0.6,
    "audio_temperature": 0.8,
    "audio_topk": 20,
}
SPEAK = {"model": "speechlm-qwen3-8b", "max_tokens": 12000, "temperature": 0.8, "top_k": 20}
WRITE = {"model": "speechlm-qwen3-8b", "max_tokens": 4096, "temperature": 0.6, "stop_token_ids": [3]}


@pytest.mark.parametrize(
    ("task", "messages", "body"),
    [
        (Task("text"), CHAT, {**WRITE, "top_k": 20}),
        (Task("text"), HEARD, WRITE),
        (Task("audiogen", True), CHAT, {**SPEAK, "vllm_xargs": XARGS}),
        (Task("audiogen_cfg", True, 3.0), CHAT, {**SPEAK, "vllm_xargs": {**XARGS, "cfg": 3.0}}),
        (Task("audiogen_cfg", True, 1.0), CHAT, {**SPEAK, "vllm_xargs": XARGS}),
    ],
)
def test_bodies_equal_those_in_the_guide(task: Task, messages: list[dict[str, Any]], body: dict[str, Any]) -> None:
    assert task.body(messages) == {**body, "messages": messages}


# Answers


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"choices": []}', b'{"choices": [{"message": null}]}'])
def test_an_answer_of_an_unexpected_shape_is_a_failure(body: bytes) -> None:
    with pytest.raises(Failure) as failure:
        read_answer(body)
    assert failure.value.kind == "bad_answer"


# Sounds, summary, command line, samples


def sounds_of(path: Path, count: int | None = None) -> dict[int, Path]:
    return choose_sounds(Source(path), count, path.parent / "sounds", "x")


def test_every_run_keeps_the_sounds_of_the_same_few_lines(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"example_id": "a/b"}\n\n' * 500)
    assert sounds_of(path) == sounds_of(path)
    assert len(sounds_of(path)) == KEPT
    assert sounds_of(path, 3).keys() == {1, 3, 5}
    assert sounds_of(path, 1)[1] == tmp_path / "sounds" / "000001_a_b.x.wav"


@given(few=st.integers(1, 60), more=st.integers(0, 60))
def test_more_lines_add_no_sound_of_an_earlier_line(
    tmp_path_factory: pytest.TempPathFactory, few: int, more: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    path.write_bytes(b"{}\n" * 120)
    first, last = sounds_of(path, few), sounds_of(path, few + more)
    assert {line for line in last if line <= few} <= first.keys()


@given(st.text(max_size=300))
def test_a_sound_file_has_a_name_that_is_valid_on_any_disk(
    tmp_path_factory: pytest.TempPathFactory, example_id: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "one.jsonl"
    path.write_bytes(orjson.dumps({"example_id": example_id}))
    (sound,) = sounds_of(path).values()
    assert sound.parent == path.parent / "sounds"
    assert re.fullmatch(r"000001_[\w.-]{1,80}\.x\.wav", sound.name, re.ASCII)


def test_a_summary_counts_answers_across_runs(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(orjson.dumps(GUIDE_LINE) + b"\n")
    path.write_bytes(path.read_bytes() * 5)
    job = Job(Task("audiogen_cfg", True, 3.0), path, None, tmp_path / "out.jsonl")
    with ExitStack() as stack:
        work = start(job, fresh=False, stack=stack)
        work.results.starts[:] = [1000.0, 2000.0]
        for line, seconds, finished in ((1, 1.0, 1010.0), (2, 2.0, 1020.0), (3, 6.0, 2030.0)):
            work.results.add(record(line, seconds=seconds, finished=finished))
        work.results.add(record(4, audio_seconds=0.0, seconds=3.0, finished=2040.0, warnings=["no audio"]))
        figures = summarize(work)
        chart = draw([work])
    assert (figures["lines"], figures["answered"], figures["left"], figures["runs"]) == (5, 4, 1, 2)
    assert figures["running_seconds"] == 20 + 40
    assert figures["requests_per_second"] == pytest.approx(4 / 60, abs=1e-4)
    assert figures["latency_seconds"]["p50"] == 2.5
    assert figures["audio"]["real_time_factor"]["p50"] == 1.0
    assert figures["audio"]["answers_without_sound"] == 1
    assert figures["answers_with_warnings"] == 1
    assert "4 of 5 answered; 1 left" in table(figures)
    assert chart.startswith(b"\x89PNG")


def record(line: int, **fields: Any) -> dict[str, Any]:
    return {
        "line": line,
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


def defaults(*tasks: str) -> Defaults:
    return Defaults("x", tasks, port=9000, concurrency=128, output="o/x_cfg{cfg}.jsonl", save_dir="hard")


def test_every_task_has_its_own_results_and_sounds() -> None:
    all_tasks = defaults(*TASKS)
    planned = jobs(all_tasks, parse(all_tasks, ["--cfg", "2.0"]))
    assert [str(job.output) for job in planned] == [f"o/x_cfg2_{name}.jsonl" for name in TASKS]
    assert [job.task.cfg for job in planned] == [1.0, 1.0, 2.0]
    assert [str(job.sounds) for job in planned] == ["None", "hard/audiogen", "hard/audiogen_cfg"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cfg", "0.5"],
        ["--cfg", "nan"],
        ["--save-dir", ""],
        ["--audio-root", " "],
        ["--concurrency", "0"],
        ["--timeout", "inf"],
        ["--num-examples", "1.5"],
        ["--output", "results.txt"],
    ],
)
def test_a_wrong_option_is_refused_by_name(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit:
        parse(defaults(*TASKS), arguments)
    assert exit.value.code == 2
    assert arguments[0] in capsys.readouterr().err


@pytest.mark.parametrize(
    ("script", "port", "concurrency"),
    [
        ("client.py", "9001", "512"),
        ("client_audiogen_cfg.py", "9001", "512"),
        ("client_all.py", "9000", "128"),
        ("client_all_4gpu.py", "9001", "512"),
    ],
)
def test_scripts_have_the_guides_defaults(
    script: str, port: str, concurrency: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", [script, "--help"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_path(str(ROOT / "clients" / script), run_name="__main__")
    assert exit.value.code == 0
    flat = " ".join(capsys.readouterr().out.split())
    assert f"of the server (default: {port})" in flat
    assert f"({concurrency})" in flat
    assert "(default: 3600)" in flat


def test_the_document_names_every_option_failure_and_group(capsys: pytest.CaptureFixture[str]) -> None:
    document = (ROOT / "docs" / "clients.md").read_text()
    with pytest.raises(SystemExit):
        parse(defaults(*TASKS), ["--help"])
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert options == set(re.findall(r"--[a-z][a-z-]+", document))
    assert all(f"`{name}`" in document for name in (*Kind, *GROUPS, "http_400"))


def test_the_samples_are_the_output_of_their_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["make.py", str(tmp_path)])
    runpy.run_path(str(SAMPLES / "make.py"), run_name="__main__")
    expected = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(expected) > 10
    assert expected == {path: (SAMPLES / path).read_bytes() for path in expected}
    committed = {path.relative_to(SAMPLES) for path in SAMPLES.rglob("*") if path.suffix in (".jsonl", ".wav", ".flac")}
    assert committed == expected.keys()


@pytest.mark.parametrize("name", ["listen.jsonl", "speak.jsonl"])
def test_the_samples_are_valid(name: str) -> None:
    lines = [parse_line(raw) for _, raw in Source(SAMPLES / name).lines()]
    assert len({line.example_id for line in lines}) == len(lines) > 10
    for line in lines:
        assert to_chat(to_speak_about(line.messages), AudioFiles(SAMPLES))
        if line.choices:
            assert line.answer in line.choices
        for message in line.messages:
            if message.modality == "audio":
                assert soundfile.info(SAMPLES / message.content).frames > 0
