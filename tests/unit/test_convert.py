"""Native checkpoints become served directories with the same tensors and ids; anything that does not fit is refused."""

import json
import os
import resource
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from forked import Forked
from safetensors.torch import load_file, save_file
from torch import Tensor

from sglang_speechlm.checkpoint import CODEC_PREFIX, CheckpointSpec, build_checkpoint, shards
from sglang_speechlm.checkpoint.convert import ConversionSettings, convert, plan_conversion
from sglang_speechlm.checkpoint.convert.codec import check_codec, codec_config
from sglang_speechlm.checkpoint.random.vocabulary import write_raw_tokenizer
from sglang_speechlm.checkpoint.source import find_source
from sglang_speechlm.codec.worker.xcodec import load_xcodec
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.config.decoding import TABLE_10, TABLE_10_NAME
from sglang_speechlm.convert import main

SPEC = CheckpointSpec()
TRAIN_CONFIG = {
    "job_type": "speechlm",
    "multimodal_io": {
        "text": {"tokenizer_name": "Qwen/Qwen3-8B-Base"},
        "discrete_audio": {
            "codec_choice": "Xcodec",
            "codec_hf_model_tag": "hf-audio/xcodec-hubert-general",
            "ssl_choice": None,
            "delay_interleave": True,
        },
        "continuous_audio": {
            "encoder_choice": "huggingface",
            "encoder_hf_model_tag": "Qwen/Qwen3-Omni-30B-A3B-Instruct",
        },
    },
    "model": {"model_choice": "parallel", "model_hf_tag": "Qwen/Qwen3-8B-Base"},
}


class Native:
    """The three inputs of a conversion, made from a built checkpoint, and its output directory."""

    def __init__(self, folder: Path, served: Path) -> None:
        self.checkpoint = folder / "model.pt"
        self.train_config = folder / "config.yaml"
        self.tokenizer = folder / "qwen3"
        self.output = folder / "served"
        self.settings = ConversionSettings(audio_heads=SPEC.audio_heads, xcodec=served / "xcodec", shard_bytes=500_000)
        self.state = load_file(served / "model.safetensors")

    def write(self) -> None:
        """Write the three inputs."""
        self.tokenizer.mkdir()
        write_raw_tokenizer(self.tokenizer, SPEC.text_vocab_size)
        self.write_qwen_config(model_type="qwen3", vocab_size=SPEC.text_vocab_size, max_position_embeddings=4096)
        self.write_train_config()
        self.save(self.state)

    def save(self, state: dict[str, Any]) -> None:
        torch.save({"module": state}, self.checkpoint)

    def write_train_config(self, **discrete_audio: Any) -> None:
        content = json.loads(json.dumps(TRAIN_CONFIG))
        content["multimodal_io"]["discrete_audio"] |= discrete_audio
        self.train_config.write_text(yaml.safe_dump(content, sort_keys=False))

    def write_qwen_config(self, **content: Any) -> None:
        (self.tokenizer / "config.json").write_text(json.dumps(content))

    def convert(self, **changes: Any) -> SpeechLMConfig:
        settings = replace(self.settings, **changes)
        source = find_source(self.checkpoint, self.train_config)
        return convert(plan_conversion(source, self.tokenizer, settings), self.output)

    def wrote_nothing(self) -> bool:
        """Whether nothing was written."""
        return not self.output.exists()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("built"), spec=SPEC)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, served: Path) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    Native(folder, served).write()
    return folder


@pytest.fixture
def native(tmp_path: Path, served: Path, inputs: Path) -> Native:
    shutil.copytree(inputs, tmp_path, dirs_exist_ok=True)
    return Native(tmp_path, served)


def tensors_of(directory: Path) -> dict[str, Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


# Output


def test_every_tensor_is_converted_bit_for_bit(native: Native) -> None:
    native.convert()
    converted = tensors_of(native.output)
    assert converted.keys() == native.state.keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in native.state.items())
    index = json.loads((native.output / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == converted.keys()
    assert len(set(index.values())) > 2


def test_the_config_describes_the_checkpoint(native: Native, served: Path) -> None:
    native.convert()
    converted = SpeechLMConfig.from_pretrained(native.output).to_dict()
    assert converted == SpeechLMConfig.from_pretrained(served).to_dict() | TABLE_10 | {"decoding_source": TABLE_10_NAME}


def test_the_tokenizer_has_the_offset(native: Native, served: Path) -> None:
    native.convert()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (native.output / name).read_text() == (served / name).read_text()


def test_the_converted_codec_decodes_identically(native: Native, served: Path) -> None:
    config = native.convert()
    codes = torch.randint(64, (1, 8, 6), generator=torch.Generator().manual_seed(0))
    sounds = [load_xcodec(path, config, "cpu").decode(codes).audio_values for path in (native.output, served)]
    assert torch.equal(sounds[0], sounds[1])


def test_without_codec_tensors_the_training_config_names_the_codec(native: Native) -> None:
    spec = replace(SPEC, codec_layer_size=1025, codec_storage="directory")
    directory = build_checkpoint(native.output.with_name("no-codec"), spec=spec)
    native.save(load_file(directory / "model.safetensors"))
    config = native.convert()
    assert config.xcodec_hf_model_tag == "hf-audio/xcodec-hubert-general"
    assert config.codec_layer_size == 1025
    assert not (native.output / "xcodec").exists()


def test_names_of_compiled_and_wrapped_models_are_unwrapped(native: Native) -> None:
    wrapped = {
        "module." + name.replace("model.layers", "model._orig_mod.layers"): t for name, t in native.state.items()
    }
    native.save(wrapped)
    native.convert()
    assert tensors_of(native.output).keys() == native.state.keys()


def test_tensors_that_share_memory_are_written_separately(native: Native) -> None:
    native.state["model.norm.weight"] = native.state["model.layers.0.input_layernorm.weight"]
    native.save(native.state)
    native.convert()
    assert torch.equal(tensors_of(native.output)["model.norm.weight"], native.state["model.norm.weight"])


def test_a_chosen_dtype_applies_to_everything_except_the_codec(native: Native) -> None:
    config = native.convert(dtype="bfloat16")
    assert config.dtype == config.text_config.dtype == torch.bfloat16
    for name, tensor in tensors_of(native.output).items():
        source = native.state[name]
        assert torch.equal(tensor, source if name.startswith(CODEC_PREFIX) else source.bfloat16())


def test_settings_reach_the_config(native: Native) -> None:
    config = native.convert(n_window=100, n_window_infer=400, audio_frontend="fork")
    assert (config.audio_config.n_window, config.audio_config.n_window_infer) == (100, 400)
    assert config.audio_frontend == "fork"


def test_without_a_qwen_config_the_usual_values_are_used(native: Native) -> None:
    (native.tokenizer / "config.json").unlink()
    assert native.convert().text_config.max_position_embeddings == 40960


def test_rope_theta_is_taken_from_the_qwen_config_in_either_form(native: Native) -> None:
    native.write_qwen_config(rope_theta=5000.0)
    assert native.convert().text_config.rope_parameters["rope_theta"] == 5000.0
    native.output = native.output.with_name("second")
    native.write_qwen_config(rope_parameters={"rope_theta": 7000.0})
    assert native.convert().text_config.rope_parameters["rope_theta"] == 7000.0


# Resuming


@pytest.fixture
def complete_shards(native: Native) -> list[Path]:
    """The complete shards of a conversion that a signal ended in the middle of its third shard."""
    calls: list[Path] = []

    def save_and_die(tensors: dict[str, Tensor], path: Path, **options: Any) -> None:
        calls.append(path)
        save_file(tensors, path, **options)
        if len(calls) == 3:
            os.truncate(path, 1000)
            os.kill(os.getpid(), signal.SIGKILL)

    def convert_and_die() -> None:
        pytest.MonkeyPatch().setattr(shards, "save_file", save_and_die)
        main(arguments(native))

    assert Forked(convert_and_die).result().returncode == -signal.SIGKILL
    return sorted(native.output.glob("*.safetensors"))


def arguments(native: Native) -> list[str]:
    return [
        "--checkpoint", str(native.checkpoint), "--train-config", str(native.train_config),
        "--tokenizer", str(native.tokenizer), "--output", str(native.output),
        "--audio-heads", str(SPEC.audio_heads), "--xcodec", str(native.settings.xcodec), "--shard-bytes", "500000",
    ]  # fmt: skip


def test_a_killed_run_resumes_and_keeps_complete_shards(native: Native, complete_shards: list[Path]) -> None:
    assert len(complete_shards) == 2
    assert not (native.output / "config.json").exists()
    written = [file.stat().st_mtime_ns for file in complete_shards]
    native.convert()
    assert [file.stat().st_mtime_ns for file in complete_shards] == written
    converted = tensors_of(native.output)
    assert all(torch.equal(converted[name], tensor) for name, tensor in native.state.items())


def test_a_killed_run_leaves_nothing_else_behind(native: Native, complete_shards: list[Path]) -> None:
    (native.output / ".tmpAb0xYz").write_bytes(b"half of a file, as safetensors names it while it writes")
    native.convert()
    resumed = contents(native.output)
    native.output.rename(native.output.with_name("resumed"))
    native.convert()
    assert resumed == contents(native.output)


def contents(directory: Path) -> dict[Path, bytes]:
    return {file.relative_to(directory): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@pytest.mark.parametrize(("max_bytes", "file"), [(1_000, "conversion.json"), (100_000, "model-00001")])
def test_a_file_that_cannot_be_written_is_named_and_the_run_is_resumed(
    native: Native, max_bytes: int, file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # The limit on the size of a file stands in for a disk that becomes full.
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, limits[1]))
    try:
        with pytest.raises(SystemExit) as exit:
            main(arguments(native))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert exit.value.code == 2
    complaint = capsys.readouterr().err
    assert f"error: {native.output / file}" in complaint
    assert "File too large" in complaint
    assert not (native.output / "config.json").exists()
    native.convert()
    assert not list(native.output.glob("*.part"))


def test_a_damaged_shard_is_written_again(native: Native) -> None:
    native.convert()
    first, second = sorted(native.output.glob("*.safetensors"))[:2]
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    second.write_bytes(second.read_bytes()[:-10])
    native.convert()
    converted = tensors_of(native.output)
    assert all(torch.equal(converted[name], tensor) for name, tensor in native.state.items())


def test_a_run_with_different_settings_does_not_resume(native: Native) -> None:
    native.convert()
    with pytest.raises(ValueError, match="was started with different config, shards"):
        native.convert(dtype="bfloat16")


def test_a_directory_with_other_files_is_left_alone(native: Native) -> None:
    native.output.mkdir()
    (native.output / "notes.txt").write_text("mine")
    (native.output / "half.part").write_text("mine")
    with pytest.raises(FileExistsError, match="has no conversion"):
        native.convert()
    assert len(list(native.output.iterdir())) == 2


# Refusals


def test_a_missing_tensor_is_refused(native: Native) -> None:
    del native.state["model.layers.1.mlp.up_proj.weight"]
    native.save(native.state)
    with pytest.raises(ValueError, match=r"1 missing \(model\.layers\.1\.mlp\.up_proj\.weight\)"):
        native.convert()
    assert native.wrote_nothing()


def test_a_missing_head_is_refused_if_the_backbone_has_one(native: Native) -> None:
    del native.state["lm_head.weight"]
    native.save(native.state)
    size = {"model_type": "qwen3", "vocab_size": SPEC.text_vocab_size}
    native.write_qwen_config(**size, tie_word_embeddings=False)
    with pytest.raises(ValueError, match=r"no tensor lm_head\.weight, and tie_word_embeddings is false in .*qwen3"):
        native.convert()
    assert native.wrote_nothing()
    native.write_qwen_config(**size, tie_word_embeddings=True)
    assert native.convert().tie_word_embeddings


def test_an_integer_tensor_is_refused_with_its_file(native: Native) -> None:
    native.save({**native.state, "lm_head.weight": torch.zeros(3, 3, dtype=torch.int64)})
    with pytest.raises(ValueError, match=r"model\.pt: lm_head\.weight is torch\.int64"):
        native.convert()


def test_a_folders_name_does_not_make_a_mixture_of_experts(native: Native) -> None:
    backbone = TRAIN_CONFIG["model"] | {"model_hf_tag": "/home/moeller/A3B/Qwen3-8B-Base"}  # type: ignore[operator]
    native.train_config.write_text(yaml.safe_dump(TRAIN_CONFIG | {"model": backbone}, sort_keys=False))
    native.convert()


def test_an_unexpected_tensor_is_refused(native: Native) -> None:
    native.save({**native.state, "multimodal_io_dict.discrete_audio.ssl_model.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"1 unexpected \(multimodal_io_dict\.discrete_audio\.ssl_model\.weight\)"):
        native.convert()
    assert native.wrote_nothing()


def test_a_misshapen_tensor_is_refused(native: Native) -> None:
    native.save({**native.state, "lm_head.weight": torch.zeros(3, 3)})
    with pytest.raises(ValueError, match=r"lm_head\.weight is \[3, 3\]"):
        native.convert()
    assert native.wrote_nothing()


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "stream_emb.weight"])
def test_a_missing_tensor_that_sizes_are_taken_from_is_named(native: Native, name: str) -> None:
    del native.state[name]
    native.save(native.state)
    with pytest.raises(ValueError, match=f"no tensor {name}"):
        native.convert()


def test_a_codec_that_does_not_match_its_config_is_refused(native: Native) -> None:
    with pytest.raises(ValueError, match=r"tensors of the codec do not match.*--xcodec"):
        native.convert(xcodec=None)
    assert native.wrote_nothing()


def test_the_released_codec_needs_no_description(native: Native) -> None:
    from transformers import XcodecConfig, XcodecModel  # after sglang_speechlm, which fixes its imports

    with torch.device("meta"):
        released = XcodecModel(XcodecConfig()).state_dict()
    shapes = {CODEC_PREFIX + name: tuple(tensor.shape) for name, tensor in released.items()}
    codec = codec_config(shapes, replace(native.settings, xcodec=None))
    assert codec is not None
    check_codec(shapes, codec)


def test_a_vocabulary_that_does_not_add_up_is_refused(native: Native) -> None:
    native.write_qwen_config(model_type="qwen3", vocab_size=700)
    with pytest.raises(ValueError, match=r"embed_tokens\.weight has 1544 rows, but 256 reserved ids, 700 text ids"):
        native.convert()
    assert native.wrote_nothing()


def test_a_backbone_of_another_family_is_refused(native: Native) -> None:
    native.write_qwen_config(model_type="llama")
    with pytest.raises(ValueError, match="model_type is 'llama'; allowed: 'qwen3'"):
        native.convert()


def test_a_tokenizer_that_does_not_fit_is_refused_before_anything_is_written(native: Native) -> None:
    write_raw_tokenizer(native.tokenizer, 1000)
    with pytest.raises(ValueError, match="text_token_end"):
        native.convert()
    assert native.wrote_nothing()


@pytest.mark.parametrize(
    ("key", "value"), [("codec_choice", "ESPnet"), ("ssl_choice", "ESPnet"), ("delay_interleave", False)]
)
def test_an_unsupported_audio_format_is_refused(native: Native, key: str, value: Any) -> None:
    native.write_train_config(**{key: value})
    with pytest.raises(ValueError, match=rf"multimodal_io\.discrete_audio\.{key} is {value!r}; allowed: "):
        native.convert()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("just text", "expected a YAML mapping"),
        ("a: 1", "has no mapping multimodal_io"),
        ("a: [", "is not YAML"),
        ("job_type: tts\nmultimodal_io: {}", "job_type is 'tts'; allowed: 'speechlm'"),
        ("multimodal_io: {discrete_audio: {}, text: {}}", r"discrete modalities \['discrete_audio', 'text'\]"),
        (
            "multimodal_io: {text: , discrete_audio: , continuous_audio: {encoder_hf_model_tag: Qwen/Qwen2.5-Omni-7B}}",
            "encoder_hf_model_tag is 'Qwen/Qwen2.5-Omni-7B'; allowed: a Qwen3-Omni model",
        ),
    ],
)
def test_a_file_that_is_not_a_train_config_is_refused(native: Native, content: str, complaint: str) -> None:
    native.train_config.write_text(content)
    with pytest.raises(ValueError, match=complaint):
        native.convert()


def test_a_minimal_train_config_suffices(native: Native) -> None:
    native.train_config.write_text("multimodal_io: {text: , discrete_audio: , continuous_audio: }")
    native.convert()


def test_a_file_that_is_not_a_torch_file_is_refused(native: Native) -> None:
    native.checkpoint.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="is not a torch zip file"):
        native.convert()


def test_an_object_that_is_not_a_tensor_is_refused_and_not_built(native: Native) -> None:
    native.save({**native.state, "hook": print})
    with pytest.raises(ValueError, match="must contain tensors only; others: hook"):
        native.convert()


def test_a_state_dict_under_another_key_is_refused(native: Native) -> None:
    torch.save({"state_dict": native.state}, native.checkpoint)
    with pytest.raises(
        ValueError, match=r'is not a state dict and has none under the key "module"; it contains: state_dict'
    ):
        native.convert()


def test_entries_that_are_not_tensors_are_refused(native: Native) -> None:
    native.save({**native.state, "step": 7})
    with pytest.raises(ValueError, match="must contain tensors only; others: step"):
        native.convert()


def test_conflicting_names_are_refused(native: Native) -> None:
    native.save({**native.state, "_orig_mod.lm_head.weight": native.state["lm_head.weight"]})
    with pytest.raises(ValueError, match="clash"):
        native.convert()


def test_a_missing_file_is_named(native: Native) -> None:
    native.checkpoint.unlink()
    with pytest.raises(ValueError, match=r"model\.pt: no such file"):
        native.convert()


# The command


def test_the_command_converts_and_describes_the_result(native: Native, capsys: pytest.CaptureFixture[str]) -> None:
    main(arguments(native))
    captured = capsys.readouterr()
    assert "1544 ids, 3 layers" in captured.out
    assert "Converting: 100%" in captured.err


def test_the_command_refuses_with_status_2_and_a_reason(native: Native, capsys: pytest.CaptureFixture[str]) -> None:
    native.train_config.write_text("job_type: tts")
    with pytest.raises(SystemExit) as exit:
        main(arguments(native))
    assert exit.value.code == 2
    assert "has no mapping multimodal_io" in capsys.readouterr().err


@pytest.mark.parametrize("option", [[], ["--checkpoint"], ["x", "--output"], ["x", "--convert-dir"], ["x", "--xcodec"]])
def test_an_empty_name_as_from_an_unset_variable_is_refused(
    option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        main([*option, ""])
    assert exit.value.code == 2
    assert "must not be empty; got ''" in capsys.readouterr().err
