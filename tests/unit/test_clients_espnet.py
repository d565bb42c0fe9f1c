"""ESPnet's manifests, moved audio files, and answers in the format of ESPnet's inference."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from clients_small import OK, TEXTS, records, run_client, scripted_server, texts_of
from core.audio import AudioFiles
from core.command import ANSWERED, LACKING, REFUSED
from core.failure import Failure, Refused
from core.source import open_source

STALE = "/mnt/home/somebody/data/dialogues.jsonl"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a manifest of four of the six dialogues in ``set/``."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    rows = [{"example_id": id, "messages": [["user", "text", text]]} for id, text in zip("fedcba", TEXTS, strict=True)]
    (tmp_path / "set" / "dialogues.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    write_manifest("a", "c", "d", "f")
    return tmp_path


def write_manifest(*samples: Any, path: str = STALE, reader: str = "dialogue", **others: Any) -> None:
    entry = {"name": "dialogue", "path": path, "reader": reader}
    Path("set/dataset.json").write_bytes(orjson.dumps({"data_entry": [entry], "samples": samples, **others}))


def run_with_manifest(port: int, *options: str) -> int:
    return run_client(port, "--input", "set/dataset.json", *options)


def test_a_manifest_chooses_dialogues_by_their_ids(folder: Path) -> None:
    with scripted_server(lambda _: OK) as server:
        assert run_with_manifest(server.port, "--num-examples", "3") == ANSWERED
        assert {record["line"]: record["example_id"] for record in records()} == {1: "f", 3: "d", 4: "c"}
        assert run_with_manifest(server.port) == ANSWERED
    assert texts_of(server.bodies) == [TEXTS[0], TEXTS[2], TEXTS[3], TEXTS[5]]


def test_dialogues_are_read_from_the_path_in_the_manifest(folder: Path) -> None:
    Path("set/dialogues.jsonl").rename(folder / "moved.jsonl")
    write_manifest("a", path=str(folder / "moved.jsonl"))
    source = open_source(Path("set/dataset.json"))
    assert [number for number, _ in source.lines()] == [6]


@pytest.mark.parametrize("name", ["set/dataset.json", "set/dialogues.jsonl"])
def test_neither_a_manifest_nor_its_dialogues_are_overwritten(folder: Path, name: str) -> None:
    before = Path(name).read_bytes()
    Path("x.jsonl").symlink_to(name)
    assert run_with_manifest(1, "--fresh") == REFUSED
    assert Path(name).read_bytes() == before


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": ["a", "x", "y"]}, r"samples: 2 are not in set/dialogues.jsonl: x, y"),
        ({"samples": "a"}, "samples: must be a list of ids"),
        ({"data_entry": []}, "data_entry: must be one entry whose reader is"),
        ({"data_entry": [{"name": "audio1", "path": "a", "reader": "lhotse_audio"}]}, "data_entry: must be one entry"),
        (
            {"data_entry": [{"path": "/a/none.jsonl", "reader": "dialogue"}]},
            "neither /a/none.jsonl nor none.jsonl",
        ),
    ],
)
def test_an_unusable_manifest_is_refused(folder: Path, fields: dict[str, Any], message: str) -> None:
    write_manifest("a", **fields)
    with pytest.raises(Refused, match=message):
        open_source(Path("set/dataset.json"))


def test_json_that_is_not_a_manifest_is_read_as_lines(folder: Path) -> None:
    Path("in.json").write_bytes(Path("set/dialogues.jsonl").read_bytes())
    Path("one.json").write_bytes(b'{"messages": [["user", "text", "x"]]}')
    assert open_source(Path("in.json")).survey().lines == 6
    assert open_source(Path("one.json")).survey().lines == 1


# Moved audio


@pytest.fixture
def audio(tmp_path: Path) -> Path:
    """A root with two sounds of the same name and one of another name."""
    for name in ("here/train/a/1.wav", "here/test/a/1.wav", "here/test/a/2.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path / "here"


@pytest.mark.parametrize(
    ("stale", "found"),
    [
        ("/mnt/data/train/a/1.wav", "train/a/1.wav"),
        ("/mnt/test/a/1.wav", "test/a/1.wav"),
        ("old/2.wav", "test/a/2.wav"),
        ("/2.wav", "test/a/2.wav"),
    ],
)
def test_a_stale_path_is_resolved_by_its_longest_matching_end(audio: Path, stale: str, found: str) -> None:
    assert AudioFiles(audio, audio).read(stale)[0] == audio / found


def test_a_valid_path_is_used(audio: Path, tmp_path: Path) -> None:
    (tmp_path / "1.wav").write_bytes(b"x")
    assert AudioFiles(tmp_path, audio).read("1.wav")[0] == tmp_path / "1.wav"


def test_an_ambiguous_stale_path_is_reported(audio: Path) -> None:
    with pytest.raises(
        Failure, match=r"/mnt/a/1.wav: 2 files below --audio-root match: .*1\.wav and .*1\.wav"
    ) as failure:
        AudioFiles(audio, audio).read("/mnt/a/1.wav")
    assert failure.value.kind == "ambiguous_audio"


@pytest.mark.parametrize("root", [True, False])
def test_a_stale_path_that_matches_no_file_is_missing(audio: Path, root: bool) -> None:
    with pytest.raises(Failure, match=r"/mnt/3\.wav: no such file") as failure:
        AudioFiles(audio, audio if root else None).read("/mnt/3.wav")
    assert failure.value.kind == "missing_audio"


def test_links_below_the_root_are_followed_once(audio: Path) -> None:
    (audio / "test" / "loop").symlink_to(audio)
    (audio / "linked").symlink_to(audio / "train")
    assert AudioFiles(audio, audio).read("/mnt/test/a/1.wav")[0].read_bytes() == b"here/test/a/1.wav"


def test_a_root_that_is_not_a_folder_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_with_manifest(1, "--audio-root", "none") == REFUSED
    assert "--audio-root none: no such directory" in capsys.readouterr().err


def test_audio_below_the_root_is_sent(folder: Path, audio: Path) -> None:
    rows = [{"messages": [["user", "audio", f"/mnt/{name}"]]} for name in ("test/a/1.wav", "a/1.wav")]
    Path("in.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port, "--audio-root", str(audio)) == LACKING
    assert len(server.bodies) == 1
    (failure,) = records("x.failures.jsonl")
    assert (failure["line"], failure["example_id"], failure["kind"]) == (2, "line-2", "ambiguous_audio")


# Answers in ESPnet's format


def test_answers_are_written_in_the_format_of_espnets_inference(folder: Path) -> None:
    with scripted_server(lambda _: OK) as server:
        assert run_with_manifest(server.port) == ANSWERED
    answers = orjson.loads(Path("x.results.json").read_bytes())
    assert answers.keys() == {"a", "c", "d", "f"}
    (text, sound) = answers["f"]
    assert text == ["assistant", "text", "Yes."]
    assert sound == ["assistant", "audio", "sounds/000001_f.x.wav"]
    assert Path(sound[2]).is_file()


def test_a_duplicate_id_is_distinguished_by_its_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.jsonl").write_bytes(b'{"example_id": "a", "messages": [["user", "text", "x"]]}\n' * 3)
    with scripted_server(lambda _: OK) as server:
        assert run_client(server.port) == ANSWERED
    assert orjson.loads(Path("x.results.json").read_bytes()).keys() == {"a", "a (line 2)", "a (line 3)"}
    assert "x.results.json: 2 answers share their id with another line" in capsys.readouterr().out
