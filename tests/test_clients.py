"""The clients' parts: lines, messages, bodies, matching of answers, results on disk, samples."""

import json
import re
import subprocess
import sys
import tracemalloc
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest
import soundfile
from core.answer import read_answer
from core.failure import Failure, Kind, Refused
from core.lines import GROUPS, MODALITIES, ROLES, Line, Message, parse_line, read_lines, survey
from core.messages import split_ground_truth, to_chat, to_speak_about, written_history
from core.options import SAMPLES, TASKS, Defaults, jobs, parse
from core.picture import draw
from core.request import Task
from core.results import Results
from core.run import Job, start
from core.score import is_right
from core.sounds import KEPT, choose_lines, save_sound
from core.summary import summarize, table
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).parent.parent
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
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["example_id", "messages", "x"]), inner)
    ),
    max_leaves=12,
)


def messages_of(line: dict[str, Any]) -> tuple[Message, ...]:
    return parse_line(orjson.dumps(line)).messages


# Lines


def test_the_guides_line_is_read() -> None:
    line = parse_line(orjson.dumps(GUIDE_LINE))
    assert line.example_id == "unique_id"
    assert [list(message) for message in line.messages] == GUIDE_LINE["messages"]
    assert (line.answer, line.choices, line.groups) == (None, (), {})


@given(st.lists(MESSAGES, min_size=1, max_size=5), TEXTS, st.lists(TEXTS, max_size=3), st.none() | TEXTS)
def test_a_line_is_read_as_it_was_written(
    messages: list[tuple[str, str, str]], example_id: str, choices: list[str], answer: str | None
) -> None:
    fields = {"example_id": example_id, "messages": messages, "choices": choices, "answer": answer, "task": "sound"}
    line = parse_line(json.dumps(fields).encode() + b"\r\n")
    expected = Line(example_id, tuple(Message(*each) for each in messages), answer, tuple(choices), {"task": "sound"})
    assert line == expected


@given(JSON)
def test_a_line_of_any_json_is_read_or_refused(value: Any) -> None:
    with suppress(Failure):
        assert parse_line(orjson.dumps(value)).messages


@given(st.binary(max_size=40))
def test_a_line_of_any_bytes_is_refused(raw: bytes) -> None:
    with pytest.raises(Failure):
        parse_line(raw)


BAD = {
    "not json": (b"{", "not JSON"),
    "not utf-8": (b'{"example_id": "\xff"}', "not JSON"),
    "no object": (b"[1]", "must be a JSON object; got [1]"),
    "no messages": (b'{"example_id": "a"}', "messages: must be a list"),
    "empty messages": (b'{"example_id": "a", "messages": []}', "messages: must be a list"),
    "no id": (b'{"messages": [["user", "text", "x"]]}', "example_id: must be a text"),
    "two fields": (b'{"example_id": "a", "messages": [["user", "x"]]}', "messages[0]: must be [role, modality"),
    "role": (b'{"example_id": "a", "messages": [["me", "text", "x"]]}', "role must be one of system, user, assistant"),
    "unhashable role": (b'{"example_id": "a", "messages": [[[], "text", "x"]]}', "role must be one of"),
    "modality": (b'{"example_id": "a", "messages": [["user", "image", "x"]]}', "modality must be one of text, audio"),
    "empty": (b'{"example_id": "a", "messages": [["user", "text", ""]]}', "messages[0]: content: must be a text"),
    "choices": (b'{"example_id": "a", "messages": [["user", "text", "x"]], "choices": "x"}', "choices: must be a list"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_refused_by_the_name_of_what_is_wrong(name: str) -> None:
    raw, message = BAD[name]
    with pytest.raises(Failure) as refused:
        parse_line(raw)
    assert message in str(refused.value)


def test_blank_lines_keep_their_numbers_and_count_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    path.write_bytes(b"\nfirst\n \nsecond\n\nthird\n\n")
    assert list(read_lines(path, None)) == [(2, b"first\n"), (4, b"second\n"), (6, b"third\n")]
    assert list(read_lines(path, 2)) == [(2, b"first\n"), (4, b"second\n")]
    assert (survey(path, None).lines, survey(path, None).last) == (3, 6)
    assert (survey(path, 2).lines, survey(path, 2).last) == (2, 4)
    assert survey(path, 2).sha256 == survey(path, None).sha256


def test_memory_does_not_grow_with_the_input(tmp_path: Path) -> None:
    path = tmp_path / "input.jsonl"
    raw = orjson.dumps({"example_id": "a", "messages": [["user", "text", "x" * 200]]}) + b"\n"
    path.write_bytes(raw * 40_000)
    tracemalloc.start()
    try:
        assert survey(path, None).lines == sum(1 for _ in read_lines(path, None)) == 40_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < path.stat().st_size / 10


# Messages


def test_audio_generation_skips_the_assistant() -> None:
    kept = to_speak_about(messages_of(GUIDE_LINE))
    assert [list(message) for message in kept] == GUIDE_LINE["messages"][:3]


def test_the_assistants_last_turn_is_the_answer_and_not_told() -> None:
    asked, truth = split_ground_truth(messages_of(GUIDE_LINE))
    assert [list(message) for message in asked] == GUIDE_LINE["messages"][:3]
    assert truth == "Ground truth (skipped for audiogen)."


def test_the_assistants_earlier_turns_are_sent() -> None:
    line = {
        "example_id": "a",
        "messages": [["user", "text", "1"], ["assistant", "text", "2"], ["user", "text", "3"]],
    }
    asked, truth = split_ground_truth(messages_of(line))
    assert len(written_history(asked)[0]) == 3
    assert truth is None


def test_an_assistants_audio_beside_a_text_is_left_out_and_noted() -> None:
    messages = [Message("assistant", "text", "a"), Message("assistant", "audio", "b"), Message("user", "audio", "c")]
    written, notes = written_history(messages)
    assert written == [messages[0], messages[2]]
    assert "left out" in notes[0]


def test_an_assistants_turn_of_audio_alone_cannot_be_sent() -> None:
    with pytest.raises(Failure) as refused:
        written_history([Message("assistant", "audio", "b"), Message("user", "text", "c")])
    assert refused.value.kind == "spoken_history"


def test_audio_is_sent_by_its_bytes_whatever_its_format(tmp_path: Path) -> None:
    (tmp_path / "clip.FLAC").write_bytes(b"sound")
    (message,) = to_chat([Message("user", "audio", "clip.FLAC")], tmp_path)
    audio = {"data": "c291bmQ=", "format": "flac"}
    assert message == {"role": "user", "content": [{"type": "input_audio", "input_audio": audio}]}


def test_audio_that_is_not_beside_the_input_is_looked_for_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "clip.wav").write_bytes(b"sound")
    monkeypatch.chdir(tmp_path / "here")
    assert to_chat([Message("user", "audio", "clip.wav")], tmp_path)


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
def test_audio_that_cannot_be_read_is_told_by_its_name(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "empty.wav").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(Failure) as refused:
        to_chat([Message("user", "audio", name)], tmp_path)
    assert refused.value.kind == kind
    assert str(refused.value).startswith(name)


def test_a_line_of_the_assistants_alone_is_a_bad_line() -> None:
    with pytest.raises(Failure, match="none is left to send"):
        to_chat(to_speak_about([Message("assistant", "text", "x")]), Path())


# Bodies: word for word the usage guide's

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
def test_bodies_are_the_guides(task: Task, messages: list[dict[str, Any]], body: dict[str, Any]) -> None:
    assert task.body(messages) == {**body, "messages": messages}


# Answers

WORDS = st.lists(st.from_regex(r"[a-z]{2,8}", fullmatch=True), min_size=1, max_size=3).map(" ".join)
CHOICES = st.lists(WORDS, min_size=2, max_size=5, unique_by=lambda text: frozenset(text.split()))


@given(CHOICES, st.data())
def test_the_right_choice_is_right_however_it_is_put(choices: list[str], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(choices) - 1))
    letter = "ABCDE"[place]
    labelled = [f"({'ABCDE'[i]}) {choice}" for i, choice in enumerate(choices)]
    for answer in (choices[place], labelled[place], letter, f"({letter})"):
        for among in (choices, labelled):
            for said in (choices[place], choices[place].upper() + ".", f"{letter}.", f"({letter}) {choices[place]}"):
                assert is_right(said, answer, among), (said, answer, among)


@given(CHOICES, st.data())
def test_another_choice_is_wrong(choices: list[str], data: st.DataObject) -> None:
    right, said = data.draw(st.permutations(range(len(choices))).map(lambda order: order[:2]))
    only_in_said = set(choices[said].split()) - set(choices[right].split())
    if only_in_said:
        assert not is_right(choices[said], choices[right], choices)
        assert not is_right(f"{choices[right]} or {choices[said]}", choices[right], choices)
    assert not is_right("ABCDE"[said], choices[right], choices)


@given(WORDS, st.text(max_size=30))
def test_without_choices_the_words_of_the_answer_are_looked_for(answer: str, other: str) -> None:
    assert is_right(f"I think: {answer.title()}!", answer)
    assert is_right(other, other)


@pytest.mark.parametrize(
    ("prediction", "answer", "choices", "right"),
    [
        ("", "cat", (), False),
        ("concatenate", "cat", (), False),
        ("a cat sat", "cat sat", (), True),
        ("cat a sat", "cat sat", (), False),
        ("", "cat", ("cat", "dog"), False),
        ("The cat, not the dog", "cat", ("cat", "dog"), False),
        ("a grey cat", "grey cat", ("grey cat", "black cat"), True),
        ("a cat", "grey cat", ("grey cat", "black cat"), False),
        ("E", "cat", ("cat", "dog"), False),
        ("b", "B", ("A", "B"), True),
        ("A", "B", ("B", "A"), False),
        ("dog", "cat", ("mouse", "rat"), False),
        ("B. Dog", "dog", ("A. cat", "B. dog"), True),
        ("+", "+", ("+", "-"), True),
        ("-", "+", ("+", "-"), False),
        ("ＣＡＴ", "cat", (), True),
    ],
)
def test_answers_are_matched(prediction: str, answer: str, choices: tuple[str, ...], right: bool) -> None:
    assert is_right(prediction, answer, choices) is right


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b'{"choices": []}', b'{"choices": [{"message": null}]}'])
def test_an_answer_of_another_shape_is_a_failure(body: bytes) -> None:
    with pytest.raises(Failure) as refused:
        read_answer(body)
    assert refused.value.kind == "bad_answer"


# Results


def record(line: int, **fields: Any) -> dict[str, Any]:
    return {
        "line": line,
        "example_id": "same for all",
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
    results.close()
    return results


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A results file of the lines 1, 5 and 2."""
    results = Results(tmp_path / "out" / "x.jsonl", {"cfg": 3.0})
    for line in (1, 5, 2):
        results.add(record(line))
    results.close()
    return results.path


def test_what_was_written_is_done(written: Path) -> None:
    results = reopened(written)
    assert [line for line in range(9000) if results.is_done(line)] == [1, 2, 5]
    assert results.done_up_to(4) == 2
    assert len(results.starts) == 2


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_a_record_that_was_not_written_to_its_end_is_taken_off(written: Path, cut: int) -> None:
    whole = written.read_bytes()
    written.write_bytes(whole[:-cut])
    assert not reopened(written).is_done(2)
    assert written.read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])


@pytest.mark.parametrize("settings", [{"cfg": 1.0}, {}, {"cfg": 3.0, "input": "x"}])
def test_other_settings_are_refused_by_name_and_change_nothing(written: Path, settings: dict[str, Any]) -> None:
    before = {path: path.read_bytes() for path in written.parent.iterdir()}
    with pytest.raises(Refused, match=r"(cfg|input) was .* --fresh"):
        Results(written, settings)
    assert {path: path.read_bytes() for path in written.parent.iterdir()} == before


def test_fresh_begins_anew(written: Path) -> None:
    assert reopened(written, {"cfg": 1.0}, fresh=True).done_up_to(9) == 0
    assert written.read_bytes() == b""


def test_results_that_somebody_else_wrote_are_refused(written: Path) -> None:
    written.with_name("x.run.json").unlink()
    with pytest.raises(Refused, match="does not say of what"):
        Results(written, {"cfg": 3.0})


@pytest.mark.parametrize("line", [b"{}\n", b"not json\n", b"[]\n", orjson.dumps(record(5)) + b"\n"])
def test_results_with_a_strange_record_are_refused_by_its_line(written: Path, line: bytes) -> None:
    with written.open("ab") as file:
        file.write(line)
    with pytest.raises(Refused, match="line 4"):
        Results(written, {"cfg": 3.0})


def test_two_clients_do_not_write_one_file(tmp_path: Path) -> None:
    first = Results(tmp_path / "x.jsonl", {})
    with pytest.raises(Refused, match="another client"):
        Results(tmp_path / "x.jsonl", {})
    first.close()
    Results(tmp_path / "x.jsonl", {}).close()


def test_failures_are_written_down_and_asked_for_again(written: Path) -> None:
    results = Results(written, {"cfg": 3.0})
    results.fail(3, None, Failure("timeout", "too late"))
    results.close()
    (failure,) = map(orjson.loads, written.with_name("x.failures.jsonl").read_bytes().splitlines())
    assert (failure["line"], failure["kind"], failure["message"]) == (3, "timeout", "too late")
    assert not reopened(written).is_done(3)
    assert not written.with_name("x.failures.jsonl").exists()


# Sounds, summary, command line, samples


def test_the_same_few_lines_sound_in_every_run() -> None:
    assert choose_lines(1000) == choose_lines(1000)
    assert len(choose_lines(1000)) == KEPT
    assert choose_lines(3) == {1, 2, 3}


@given(st.text(max_size=300), st.integers(1, 10**7))
def test_a_sounds_file_has_a_name_of_its_own_in_its_folder(
    tmp_path_factory: pytest.TempPathFactory, example_id: str, line: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "sounds"
    path = Path(save_sound(folder, line, example_id, b"wav"))
    assert path.parent == folder
    assert path.name.startswith(f"{line:06d}_")
    assert path.read_bytes() == b"wav"


def test_a_summary_counts_what_was_answered_across_runs(tmp_path: Path) -> None:
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
        picture = draw([work])
    assert (figures["lines"], figures["answered"], figures["left"], figures["runs"]) == (5, 4, 1, 2)
    assert figures["running_seconds"] == 20 + 40
    assert figures["requests_per_second"] == pytest.approx(4 / 60, abs=1e-4)
    assert figures["latency_seconds"]["p50"] == 2.5
    assert figures["audio"]["real_time_factor"]["p50"] == 1.0
    assert figures["audio"]["answers_without_sound"] == 1
    assert figures["answers_with_warnings"] == 1
    assert "4 of 5 answered; 1 left" in table(figures)
    assert picture.startswith(b"\x89PNG")


def defaults(*tasks: str) -> Defaults:
    return Defaults("x", tasks, port=9000, concurrency=128, output="o/x_cfg{cfg}.jsonl", save_dir="hard")


def test_every_task_has_its_own_results_and_sounds() -> None:
    many = defaults(*TASKS)
    made = jobs(many, parse(many, ["--cfg", "2.0"]))
    assert [str(job.output) for job in made] == [f"o/x_cfg2_{name}.jsonl" for name in TASKS]
    assert [job.task.cfg for job in made] == [1.0, 1.0, 2.0]
    assert [str(job.sounds) for job in made] == ["None", "hard/audiogen", "hard/audiogen_cfg"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--cfg", "0.5"],
        ["--cfg", "nan"],
        ["--concurrency", "0"],
        ["--timeout", "inf"],
        ["--num-examples", "1.5"],
        ["--output", "results.txt"],
    ],
)
def test_a_wrong_option_is_refused_by_name(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(defaults(*TASKS), arguments)
    assert ended.value.code == 2
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
def test_scripts_have_the_guides_defaults(script: str, port: str, concurrency: str, tmp_path: Path) -> None:
    shown = subprocess.run(
        [sys.executable, str(ROOT / "clients" / script), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert shown.returncode == 0, shown.stderr
    flat = " ".join(shown.stdout.split())
    assert f"of the server (default: {port})" in flat
    assert f"({concurrency})" in flat
    assert "(default: 3600)" in flat


def test_the_document_has_every_option_failure_and_group(capsys: pytest.CaptureFixture[str]) -> None:
    document = (ROOT / "docs" / "clients.md").read_text()
    with pytest.raises(SystemExit):
        parse(defaults(*TASKS), ["--help"])
    options = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out)) - {"--help"}
    assert options == set(re.findall(r"--[a-z][a-z-]+", document))
    assert all(f"`{name}`" in document for name in (*Kind, *GROUPS, "http_400"))


def test_the_samples_are_what_their_script_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, str(SAMPLES / "make.py"), str(tmp_path)], check=True)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert len(made) > 10
    assert made == {path: (SAMPLES / path).read_bytes() for path in made}
    kept = {path.relative_to(SAMPLES) for path in SAMPLES.rglob("*") if path.suffix in (".jsonl", ".wav", ".flac")}
    assert kept == made.keys()


@pytest.mark.parametrize("name", ["listen.jsonl", "speak.jsonl"])
def test_the_samples_are_in_order(name: str) -> None:
    lines = [parse_line(raw) for _, raw in read_lines(SAMPLES / name, None)]
    assert len({line.example_id for line in lines}) == len(lines) > 10
    for line in lines:
        assert to_chat(to_speak_about(line.messages), SAMPLES)
        if line.choices:
            assert line.answer in line.choices
        for message in line.messages:
            if message.modality == "audio":
                assert soundfile.info(SAMPLES / message.content).frames > 0
