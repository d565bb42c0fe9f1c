"""A faulty file gives a message that names it, quickly and without a traceback."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sglang_speechlm.checkpoint import CheckpointSpec, build_checkpoint
from sglang_speechlm.checkpoint.served import check_served, checkpoint_config
from sglang_speechlm.config.files import CheckpointError, read_json, read_yaml, safetensors_shapes

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{letter}: &{letter} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, letter in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (BOMB, "expands to more than 200000 values"),
        ("a: &a [*a]", r"the alias \*a refers to an undefined or unfinished value"),
        ("[" * 10_000, "nested more than 64 deep"),
        ("a: " + "9" * 20_000, "a scalar of 20000 characters"),
        ("a: 2020-99-99", "month must be in 1..12"),
        ("a: [", "is not YAML"),
        ("a: !!python/object/apply:os.system [true]", "is not YAML"),
        ("- 1", "expected a YAML mapping"),
        ("", "expected a YAML mapping"),
        ("\x00", "is not YAML"),
        ("#" * (5 << 20), "larger than 4 MiB"),
    ],
    ids=["bomb", "circle", "deep", "long number", "no date", "open", "python", "list", "empty", "null", "large"],
)
def test_a_broken_yaml_file_is_named(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "train.yaml"
    file.write_text(content)
    with pytest.raises(CheckpointError, match=rf"train\.yaml.*{complaint}"):
        read_yaml(file)


def test_aliases_of_ordinary_size_are_read(tmp_path: Path) -> None:
    file = tmp_path / "train.yaml"
    file.write_text("usual: &usual {dtype: bfloat16}\nmodel: {<<: *usual}\nother: [*usual, *usual]")
    assert read_yaml(file)["model"] == {"dtype": "bfloat16"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ' * 100_000, "nested too deeply"),
        ('{"a": ' + "9" * 10_000 + "}", "4300 digits"),
        ("{", "not JSON"),
        ("[]", "expected a JSON object"),
        ("", "not JSON"),
    ],
    ids=["lists", "objects", "number", "open", "list", "empty"],
)
def test_a_broken_json_file_is_named(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "config.json"
    file.write_text(content)
    with pytest.raises(CheckpointError, match=rf"config\.json.*{complaint}"):
        read_json(file)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"\xff\xfe{")
    for read in (read_json, read_yaml):
        with pytest.raises(CheckpointError, match=r"config\.json: .*utf-8"):
            read(file)


def link_to_itself(file: Path) -> None:
    file.symlink_to(file)


def link_to_endless_device(file: Path) -> None:
    file.symlink_to("/dev/zero")


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (link_to_itself, "symbolic link"),
        (link_to_endless_device, "larger than 64 MiB"),
        (Path.mkdir, "directory"),
        (lambda file: None, "no such file"),
    ],
    ids=["loop", "device", "folder", "nothing"],
)
def test_a_path_that_is_not_a_regular_file_is_named(
    tmp_path: Path, make: Callable[[Path], Any], complaint: str
) -> None:
    file = tmp_path / "config.json"
    make(file)
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{complaint}"):
        read_json(file)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text("{}")
    file.chmod(0)
    with pytest.raises(CheckpointError, match=r"config\.json: Permission denied"):
        read_json(file)


def header(fields: Any, data: bytes = b"") -> bytes:
    text = json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 4,
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        header({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\x00" * 8),
        header({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4]}}, b"\x00" * 4),
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, b"\x00" * 4),
        header({"a": {"dtype": "X9", "shape": [1], "data_offsets": [0, 4]}}, b"\x00" * 4),
    ],
    ids=["empty", "cut header", "huge header", "list", "cut data", "huge shape", "negative", "dtype"],
)
def test_a_broken_safetensors_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        safetensors_shapes(file)


# A served directory


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("built"), spec=CheckpointSpec())


@pytest.fixture
def served(tmp_path: Path, built: Path) -> Path:
    for file in built.glob("*.*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("model_type", "llama"),
        ("vocab_size", 10**15),
        ("vocab_size", "many"),
        ("num_stream", 0),
        ("eos_token_id", None),
        ("text_config", []),
        ("text_config.num_hidden_layers", 10**12),
        ("text_config.hidden_size", None),
        ("text_config.num_attention_heads", 0),
        ("audio_config.encoder_layers", 10**12),
        ("audio_config.d_model", 1.5),
        ("audio_frontend", "other"),
    ],
)
def test_an_impossible_config_value_is_named_with_its_field(served: Path, place: str, value: Any) -> None:
    file = served / "config.json"
    fields = json.loads(file.read_text())
    *outer, name = place.split(".")
    (fields[outer[0]] if outer else fields)[name] = value
    file.write_text(json.dumps(fields))
    with pytest.raises(
        CheckpointError, match=rf"config\.json: .*{name}" if name != "eos_token_id" else r"config\.json"
    ):
        checkpoint_config(served)


def test_a_directory_whose_tensors_do_not_match_its_config_is_refused(served: Path) -> None:
    fields = json.loads((served / "config.json").read_text())
    fields["text_config"]["intermediate_size"] = 64
    (served / "config.json").write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match=r"misshapen \(model\.layers\.0\.mlp"):
        check_served(served, checkpoint_config(served))


def test_a_directory_without_tensors_is_refused(served: Path) -> None:
    (served / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="contains no safetensors files"):
        check_served(served, checkpoint_config(served))


def test_a_file_that_the_index_names_must_be_there(served: Path) -> None:
    (served / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "model-00001.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"model-00001\.safetensors"):
        check_served(served, checkpoint_config(served))
