"""A checkpoint that a user names becomes a served directory: converted once, found again, downloaded from the hub."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from checkpoint_forms import INFERENCE, released_tensors, write_fork, write_release, write_tokenizer, write_train_config
from forked import Forked
from hub_stand_in import Hub, hub_of

from sglang_speechlm.checkpoint import CheckpointSpec, build_checkpoint
from sglang_speechlm.checkpoint.check import check
from sglang_speechlm.checkpoint.convert.decoding import read_decoding
from sglang_speechlm.checkpoint.prepare import Wanted, served_directory, served_tokenizer_directory
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.config.decoding import TABLE_10
from sglang_speechlm.config.files import CheckpointError

SPEC = CheckpointSpec(
    layers=1, audio_layers=1, audio_d_model=64, audio_heads=1, codec_layer_size=1025, codec_storage="directory"
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("built"), spec=SPEC)


@pytest.fixture
def wanted(tmp_path: Path, built: Path) -> Wanted:
    release = write_release(tmp_path / "release", released_tensors(built))
    tokenizer = write_tokenizer(tmp_path / "qwen3")
    return Wanted(str(release), tokenizer=str(tokenizer), convert_dir=tmp_path / "converted")


def prepared(wanted: Wanted) -> tuple[Path, list[str]]:
    messages: list[str] = []
    return served_directory(wanted, messages.append), messages


def reports_conversion(messages: list[str]) -> bool:
    return any(message.startswith("converting ") for message in messages)


# The cache


def test_a_checkpoint_is_converted_once(wanted: Wanted) -> None:
    directory, messages = prepared(wanted)
    assert reports_conversion(messages)
    written = {file: file.stat().st_mtime_ns for file in directory.iterdir()}
    second_directory, messages = prepared(wanted)
    assert second_directory == directory
    assert not reports_conversion(messages)
    assert {file: file.stat().st_mtime_ns for file in directory.iterdir()} == written


def test_a_changed_source_is_converted_separately(wanted: Wanted) -> None:
    first, _ = prepared(wanted)
    (Path(wanted.model) / "inference.yaml").write_text("audio: {cfg: 2}")
    second, messages = prepared(wanted)
    assert first != second
    assert reports_conversion(messages)
    os.utime(Path(wanted.model) / "model.pt", ns=(1, 1))
    third, _ = prepared(wanted)
    assert len({first, second, third}) == 3


def test_two_launchers_at_once_convert_once(wanted: Wanted) -> None:
    def launch() -> None:
        print(served_directory(wanted, lambda message: print(message, file=sys.stderr)))

    results = [launcher.result() for launcher in [Forked(launch) for _ in range(2)]]
    assert [result.returncode for result in results] == [0, 0], results
    assert results[0].stdout == results[1].stdout
    assert sum(result.stderr.count("converting /") for result in results) == 1


def test_a_launcher_waits_for_a_held_lock(wanted: Wanted) -> None:
    directory, _ = prepared(wanted)
    (directory / "config.json").unlink()
    lock = directory.with_name(directory.name + ".lock").open("a")
    fcntl.flock(lock, fcntl.LOCK_EX)
    messages: list[str] = []

    def report(message: str) -> None:
        messages.append(message)
        if "waiting for it" in message:
            lock.close()

    assert served_directory(wanted, report) == directory
    assert any("waiting for it" in message for message in messages)
    assert (directory / "config.json").is_file()


def test_an_unfinished_conversion_by_another_version_is_restarted(wanted: Wanted) -> None:
    directory, _ = prepared(wanted)
    expected = (directory / "config.json").read_bytes()
    (directory / "config.json").unlink()
    (directory / "conversion.json").write_text('{"of": "another version"}')
    prepared(wanted)
    assert (directory / "config.json").read_bytes() == expected


def test_the_cache_is_in_the_users_cache_directory(
    wanted: Wanted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert Wanted("x").cache == tmp_path / "cache" / "sglang-speechlm"


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The user has no entry in the machine's list, and no variable names a directory."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2**31 - 2)


@pytest.mark.usefixtures("homeless")
def test_without_a_home_directory_a_conversion_is_refused_by_the_option_that_names_another(wanted: Wanted) -> None:
    with pytest.raises(CheckpointError, match=r"HOME is not set .*--convert-dir DIR"):
        prepared(replace(wanted, convert_dir=None))


@pytest.mark.usefixtures("homeless")
def test_a_served_directory_needs_no_home_directory(built: Path) -> None:
    wanted = Wanted(str(built))
    assert served_tokenizer_directory(wanted, prepared(wanted)[0], print) == built


def test_directories_served_in_place_are_not_converted(tmp_path: Path, built: Path) -> None:
    fork = write_fork(tmp_path / "fork", built)
    for directory in (built, fork):
        assert prepared(Wanted(str(directory), convert_dir=tmp_path / "converted"))[0] == directory
    assert not (tmp_path / "converted").exists()


def test_a_refused_source_leaves_nothing_behind(wanted: Wanted) -> None:
    write_train_config(Path(wanted.model), "train_bagpiper_tts.yaml", codec_choice="ESPnet")
    with pytest.raises(
        CheckpointError, match=r"train_bagpiper_tts\.yaml: .*codec_choice is 'ESPnet'; allowed: 'Xcodec'"
    ):
        prepared(wanted)
    assert wanted.convert_dir is not None
    assert not wanted.convert_dir.exists()


def test_the_message_about_a_missing_tokenizer_names_the_option(wanted: Wanted, tmp_path: Path) -> None:
    without_tokenizer = Wanted(wanted.model, tokenizer=str(tmp_path), convert_dir=wanted.convert_dir)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: no such file; --tokenizer-path"):
        prepared(without_tokenizer)


def test_a_preset_next_to_the_weights_belongs_to_the_checkpoint(wanted: Wanted) -> None:
    preset = {"extends": "bagpiper-sft", "system": {"generation": "Speak."}}
    assert json.loads((prepared(wanted)[0] / "preset.json").read_text()) == {"extends": "bagpiper-tts"}
    (Path(wanted.model) / "preset.json").write_text(json.dumps(preset))
    assert json.loads((prepared(wanted)[0] / "preset.json").read_text()) == preset


# Decoding defaults


def test_decoding_defaults_of_the_release_are_in_the_config(wanted: Wanted) -> None:
    config = SpeechLMConfig.from_pretrained(prepared(wanted)[0])
    assert config.decoding == {
        "source": "inference.yaml",
        "text": {"temperature": 0.7, "top_k": 25, "max_tokens": 4096},
        "audio": {"temperature": 0.9, "top_k": 30, "cfg": 3.0, "min_frames": 40, "max_frames": 1024},
    }


def test_without_a_file_the_papers_table_applies() -> None:
    found = read_decoding([])
    assert found.pop("decoding_source") == "Table 10 of the Bagpiper paper"
    assert found == TABLE_10


def test_each_mode_is_decoded_by_its_own_file(tmp_path: Path) -> None:
    files = [tmp_path / "inference_audio.yaml", tmp_path / "inference_text.yaml"]
    files[0].write_text(yaml.safe_dump({**INFERENCE, "text": {"max_step": 1}}))
    files[1].write_text(yaml.safe_dump({"text": {"max_step": 77}, "audio": {"cfg": 9}}))
    found = read_decoding(files)
    assert (found["text_max_tokens"], found["audio_cfg"]) == (77, 3.0)
    assert (
        found["decoding_source"]
        == "inference_text.yaml, else inference_audio.yaml, else Table 10 of the Bagpiper paper"
    )


def test_a_decoding_file_that_is_not_used_is_named(wanted: Wanted, capsys: pytest.CaptureFixture[str]) -> None:
    unused_file = Path(wanted.model) / "inference_z.yaml"
    unused_file.write_text(yaml.safe_dump(INFERENCE))
    check(wanted, print)
    assert f"{unused_file} is not used: decoding defaults come from inference.yaml" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("audio: {cfg: 50}", r"audio\.cfg is 50; allowed: a number from 1 to 20"),
        ("text: {temperature: .nan}", r"text\.temperature is nan; allowed: a number from 0 to 2"),
        ("audio: {topk: true}", r"audio\.topk is True"),
        ("audio: {min_step: '50'}", r"audio\.min_step is '50'"),
        ("audio: [1]", r"audio is \[1\]; allowed: a mapping"),
        ("audio: {max_step: 0}", r"audio\.max_step is 0; allowed: a whole number from 1 to 1000000"),
    ],
)
def test_impossible_decoding_defaults_are_refused(tmp_path: Path, content: str, complaint: str) -> None:
    (tmp_path / "inference.yaml").write_text(content)
    with pytest.raises(CheckpointError, match=rf"inference\.yaml: {complaint}"):
        read_decoding([tmp_path / "inference.yaml"])


def test_a_release_may_set_no_minimum_frames(tmp_path: Path) -> None:
    (tmp_path / "inference.yaml").write_text("audio: {min_step: 0, temperature: 0, cfg: 1}\ntext: {temperature: 0}")
    found = read_decoding([tmp_path / "inference.yaml"])
    assert (found["audio_min_frames"], found["audio_temperature"], found["audio_cfg"]) == (0, 0.0, 1.0)


# --check


def test_a_check_describes_the_result_and_writes_nothing(wanted: Wanted) -> None:
    messages: list[str] = []
    assert check(wanted, messages.append) == 0, messages
    printed = "\n".join(messages)
    for part in (
        "a native checkpoint",
        "vocab_weight is left out",
        "becomes ",
        "KiB of KV cache",
        "fp8",
        "141 GB",
        "no problems",
    ):
        assert part in printed
    assert wanted.convert_dir is not None
    assert not wanted.convert_dir.exists()


def test_a_check_reports_a_problem(wanted: Wanted) -> None:
    (Path(wanted.model) / "inference.yaml").write_text("audio: {cfg: 50}")
    messages: list[str] = []
    assert check(wanted, messages.append) == 2
    assert any(message.startswith("problem: ") and "audio.cfg" in message for message in messages)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", None),
        ("tokenizer.json", '{"version": '),
        ("tokenizer.json", '{"a": 1}'),
        ("tokenizer_config.json", "nonsense"),
        ("preset.json", "nonsense"),
    ],
)
def test_a_check_covers_every_part_of_a_served_directory(
    tmp_path: Path, built: Path, file: str, content: str | None
) -> None:
    folder = write_fork(tmp_path / "fork", built)
    assert check(Wanted(str(folder)), list[str]().append) == 0
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_text(content)
    messages: list[str] = []
    assert check(Wanted(str(folder)), messages.append) == 2
    assert any(message.startswith("problem: ") and file in message for message in messages)


FP8_BLOCKS = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
COMPRESSED = {"quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["lm_head"]}


@pytest.mark.parametrize(
    ("file", "place", "content"),
    [
        ("config.json", "quantization_config", {"quantization_config": FP8_BLOCKS}),
        ("config.json", "text_config.quantization_config", {"text_config": {"quantization_config": COMPRESSED}}),
        ("config.json", "compression_config", {"compression_config": COMPRESSED}),
        ("hf_quant_config.json", "", {"quantization": {"quant_algo": "FP8"}}),
        ("quant_model_description.json", "", {"model_quant_type": "W8A8"}),
    ],
)
def test_a_quantized_checkpoint_is_refused_with_the_alternative(
    tmp_path: Path, built: Path, file: str, place: str, content: dict[str, Any]
) -> None:
    folder = write_fork(tmp_path / "fork", built)
    fields = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
    nested = {"text_config": fields.get("text_config", {}) | content["text_config"]} if "text_config" in content else {}
    (folder / file).write_text(json.dumps(fields | content | nested))
    messages: list[str] = []
    assert check(Wanted(str(folder)), messages.append) == 2
    (problem,) = [message for message in messages if message.startswith("problem: ")]
    assert f"{file}: {place}" in problem
    assert "--quantization fp8" in problem


def test_a_bad_preset_is_refused_before_anything_is_written(wanted: Wanted) -> None:
    (Path(wanted.model) / "preset.json").write_text('{"speech": 3}')
    with pytest.raises(CheckpointError, match=r"preset\.json"):
        prepared(wanted)
    assert wanted.convert_dir is not None
    assert not wanted.convert_dir.exists()


# The hub


class Fetching:
    """Prepare hub checkpoints in processes of their own: huggingface_hub reads its settings when it is imported."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub, self.folder = hub, folder

    def __call__(self, model: str, revision: str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        def fetch() -> None:
            for name in [name for name in os.environ if "proxy" in name.lower()]:
                del os.environ[name]
            os.environ |= {"HF_ENDPOINT": self.hub.url, "HF_HOME": str(self.folder / "hf"), **variables}
            for name in [
                name for name in sys.modules if name.startswith(("huggingface_hub", "sglang_speechlm.checkpoint"))
            ]:
                del sys.modules[name]
            prepare = import_module("sglang_speechlm.checkpoint.prepare")
            wanted = prepare.Wanted(model, revision, "Qwen/Tiny", convert_dir=self.folder / "converted")
            try:
                print(prepare.served_directory(wanted, lambda message: print(message, file=sys.stderr)))
            except ValueError as error:
                sys.exit(str(error))

        return Forked(fetch).result()


@pytest.fixture
def fetching(wanted: Wanted, built: Path, tmp_path: Path) -> Iterator[Fetching]:
    assert wanted.tokenizer is not None
    # huggingface_hub writes pieces of 10 MiB: a smaller download cannot be interrupted midway.
    tensors = {**released_tensors(built), "vocab_weight": torch.ones(8_000_000)}
    torch.save({"module": tensors}, Path(wanted.model) / "model.pt")
    (Path(wanted.model) / "big_unneeded.bin").write_bytes(b"x" * 1000)
    with hub_of({"espnet/tiny": Path(wanted.model), "Qwen/Tiny": Path(wanted.tokenizer)}) as hub:
        yield Fetching(hub, tmp_path)


def test_a_hub_checkpoint_is_downloaded_resumed_converted_and_found_again(fetching: Fetching) -> None:
    fetching.hub.breaks = {"model.pt"}
    first = fetching("espnet/tiny", "v1")
    assert first.returncode == 0, first.stderr
    assert "espnet/tiny at 0123456789ab: 3 files" in first.stderr
    assert "3 to download" in first.stderr
    assert json.loads((Path(first.stdout.strip()) / "config.json").read_text())["model_type"] == "speechlm"
    paths = fetching.hub.requests
    assert any("model.pt bytes=" in path for path in paths), paths  # the download resumed instead of starting again
    assert not any("README" in path or "big_unneeded" in path for path in paths)
    before = len(paths)
    offline = fetching("espnet/tiny", "v1", HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stdout) == (0, first.stdout), offline.stderr
    assert len(paths) == before


def test_a_download_is_refused_if_there_is_no_room_for_its_conversion(wanted: Wanted, fetching: Fetching) -> None:
    os.truncate(Path(wanted.model) / "model.pt", int(shutil.disk_usage(fetching.folder).free * 0.7))
    result = fetching("espnet/tiny")
    assert result.returncode == 1
    assert "not enough disk" in result.stderr
    assert "GB to download" in result.stderr
    assert f"GB to convert ({fetching.folder / 'converted'})" in result.stderr
    assert not any("model.pt" in path for path in fetching.hub.requests)


@pytest.mark.parametrize(
    ("model", "revision", "complaint"),
    [("espnet/nothing", None, "neither a local path nor a repository"), ("espnet/tiny", "v9", "no revision 'v9'")],
)
def test_a_missing_repository_or_revision_is_named(
    fetching: Fetching, model: str, revision: str | None, complaint: str
) -> None:
    result = fetching(model, revision)
    assert result.returncode == 1
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr
