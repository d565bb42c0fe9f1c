"""Weights in any form give the same served directory, and nothing in a pickle is executed."""

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_forms import (
    FORMS,
    SPEC,
    Obstacle,
    released_tensors,
    write_deepspeed,
    write_distributed,
    write_fork,
    write_plain,
    write_release,
    write_tokenizer,
    write_train_config,
)
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict_saver import save as save_distributed

from sglang_speechlm.checkpoint import CODEC_PREFIX, build_checkpoint
from sglang_speechlm.checkpoint.convert import ConversionSettings, convert, plan_conversion
from sglang_speechlm.checkpoint.served import check_served, checkpoint_config
from sglang_speechlm.checkpoint.source import find_source
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.config.decoding import TABLE_10
from sglang_speechlm.config.files import CheckpointError
from sglang_speechlm.options.command_line import served_tokenizer


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("built"), spec=SPEC)


@pytest.fixture(scope="module")
def tensors(served: Path) -> dict[str, Tensor]:
    return released_tensors(served)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer") / "qwen3")


def settings(served: Path) -> ConversionSettings:
    return ConversionSettings(audio_heads=SPEC.audio_heads, xcodec=served / "xcodec")


def architecture(directory: Path) -> dict[str, Any]:
    """The config without the decoding defaults, which only a release contains."""
    fields = SpeechLMConfig.from_pretrained(directory).to_dict()
    return {name: value for name, value in fields.items() if name not in {*TABLE_10, "decoding_source"}}


# Conversion


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_directory(
    form: str, tmp_path: Path, served: Path, tensors: dict[str, Tensor], tokenizer: Path
) -> None:
    source = find_source(FORMS[form](tmp_path / "source", tensors))
    conversion = plan_conversion(source, tokenizer, settings(served))
    convert(conversion, tmp_path / "served")
    converted = load_file(tmp_path / "served" / "model.safetensors")
    expected = load_file(served / "model.safetensors")
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in expected.items())
    for file in ("tokenizer.json", "tokenizer_config.json", "xcodec/config.json"):
        assert (tmp_path / "served" / file).read_text() == (served / file).read_text()
    assert architecture(tmp_path / "served") == architecture(served)
    assert any("vocab_weight is left out" in note for note in conversion.notes)
    assert not (tmp_path / "source" / "pwned").exists()


def test_a_trainers_step_is_found_from_any_of_its_folders(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    output = write_distributed(tmp_path, {"stream_emb.weight": tensors["stream_emb.weight"]})
    newest = output / "checkpoints" / "step_10"
    for folder in (output, output / "checkpoints", newest):
        source = find_source(folder)
        assert (source.path, source.train_config) == (newest, output / "train.yaml")
    assert any("step_12 is skipped: an unfinished save" in note for note in find_source(output).notes)
    assert find_source(output / "checkpoints" / "step_2").path.name == "step_2"


def test_an_unfinished_save_is_refused_by_name(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    output = write_distributed(tmp_path, {"stream_emb.weight": tensors["stream_emb.weight"]})
    with pytest.raises(CheckpointError, match=r"step_12: an unfinished save \(\.metadata is missing\)"):
        find_source(output / "checkpoints" / "step_12")


@pytest.mark.parametrize("key", ["model", None])
def test_a_trainers_other_state_is_not_read(tmp_path: Path, key: str | None) -> None:
    model = {"stream_emb.weight": torch.ones(8, 2), "lm_head.weight": torch.ones(3, 2)}
    other_state = {
        "optimizer": {"state": {"model.norm.weight": {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]},
        "lr_scheduler": {"last": torch.tensor(1.0)},
        "train_state": {"step": torch.tensor(3)},
        "dataloader": {"seen": torch.ones(1)},
        "global_step": 3,
    }
    state = (model if key is None else {key: model}) | other_state
    save_distributed(state, checkpoint_id=tmp_path / "step_3", no_dist=True)
    assert find_source(tmp_path).open().keys() == model.keys()


WRAPPED = {
    "compiled": ("model._orig_mod.layers.0.mlp.up_proj.weight", "stream_emb.weight"),
    "checkpointed": ("model.layers.0._checkpoint_wrapped_module.mlp.up_proj.weight", "stream_emb.weight"),
    "parallel": ("module.model.layers.0.mlp.up_proj.weight", "module.stream_emb.weight"),
    "all compiled": ("_orig_mod.module.model.layers.0.mlp.up_proj.weight", "_orig_mod.module.stream_emb.weight"),
}


@pytest.mark.parametrize("names", WRAPPED.values(), ids=WRAPPED)
def test_names_of_wrapped_modules_are_unwrapped_in_every_form(tmp_path: Path, names: tuple[str, str]) -> None:
    state = {name: torch.ones(2, 2) for name in names}
    torch.save({"module": state}, tmp_path / "x.pt")
    save_distributed({"model": state}, checkpoint_id=tmp_path / "step_1", no_dist=True)
    for path in (tmp_path / "x.pt", tmp_path / "step_1"):
        assert find_source(path).open().keys() == {"model.layers.0.mlp.up_proj.weight", "stream_emb.weight"}


def test_chunks_of_a_sharded_tensor_are_put_together(tmp_path: Path) -> None:
    whole = torch.arange(48, dtype=torch.float32).reshape(8, 6)
    write_distributed(tmp_path, {"stream_emb.weight": whole})
    step = tmp_path / "checkpoints" / "step_10"
    metadata = pickle.loads((step / ".metadata").read_bytes())
    entry = metadata.state_dict_metadata["model.stream_emb.weight"]
    (index,) = [index for index in metadata.storage_data if index.fqn == "model.stream_emb.weight"]
    kind, chunk = type(metadata.storage_data[index]), type(entry.chunks[0])
    del metadata.storage_data[index]
    entry.chunks.clear()
    for number, (rows, begin) in enumerate(((5, 0), (3, 5))):
        file = step / f"__{number}_9.distcp"
        torch.save(whole[begin : begin + rows].clone(), file)
        entry.chunks.append(chunk(offsets=torch.Size([begin, 0]), sizes=torch.Size([rows, 6])))
        place = type(index)("model.stream_emb.weight", torch.Size([begin, 0]), number)
        metadata.storage_data[place] = kind(file.name, 0, file.stat().st_size)
    (step / ".metadata").write_bytes(pickle.dumps(metadata))
    assert torch.equal(find_source(tmp_path).open()["stream_emb.weight"].read(), whole)
    (step / "__1_9.distcp").write_bytes(b"short")
    with pytest.raises(CheckpointError, match=r"__1_9\.distcp: cut short: the chunk of model\.stream_emb\.weight"):
        find_source(tmp_path).open()


def test_metadata_of_a_step_is_not_executed(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Obstacle(tmp_path / "pwned")))
    with pytest.raises(CheckpointError, match=r"not the metadata of a torch\.distributed\.checkpoint"):
        find_source(tmp_path).open()
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xe9\x01", b"\x80\x04(("])
def test_broken_metadata_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".metadata").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"\.metadata: not a pickle, or cut short"):
        find_source(tmp_path).open()


def test_a_pickle_cannot_change_the_classes_that_it_names(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    # GLOBAL torch.distributed...TensorStorageMetadata, then BUILD with (None, {"poison": 1}): sets a class attribute.
    build = b"\x80\x02ctorch.distributed.checkpoint.metadata\nMetadata\nN}X\x06\x00\x00\x00poisonK\x01s\x86b."
    (tmp_path / ".metadata").write_bytes(build)
    with pytest.raises(CheckpointError):
        find_source(tmp_path).open()
    from torch.distributed.checkpoint.metadata import Metadata

    assert not hasattr(Metadata, "poison")


def test_a_tensor_that_is_a_view_is_read_correctly(tmp_path: Path) -> None:
    base = torch.arange(24, dtype=torch.bfloat16).reshape(4, 6)
    views = {"transposed": base.T, "column": base[:, 2], "tail": base[2:], "empty": base[:0], "scalar": base[1, 1]}
    write_plain(tmp_path, {**views, "parameter": torch.nn.Parameter(base)})
    state = find_source(tmp_path / "weights.pt").open()
    for name, view in {**views, "parameter": base}.items():
        assert state[name].shape == tuple(view.shape)
        assert torch.equal(state[name].read(), view)


# Finding the checkpoint


def test_the_training_config_is_the_yaml_file_without_decoding_defaults(
    tmp_path: Path, tensors: dict[str, Tensor]
) -> None:
    source = find_source(write_release(tmp_path, tensors))
    assert source.train_config == tmp_path / "train_bagpiper_tts.yaml"
    assert source.inference == (tmp_path / "inference.yaml",)
    assert find_source(tmp_path / "model.pt") == source


@pytest.mark.parametrize("named", ["", "checkpoints", "checkpoints/step_20", "checkpoints/step_20/global_step20"])
def test_a_save_in_deepspeeds_own_folder_is_found(tmp_path: Path, named: str) -> None:
    write_train_config(tmp_path)
    step = tmp_path / "checkpoints" / "step_20"
    for name in ("global_step20", "global_step30"):
        (step / name).mkdir(parents=True)
        torch.save({"module": {"a": torch.zeros(1)}}, step / name / "mp_rank_00_model_states.pt")
    (step / "latest").write_text("global_step20\n")
    (tmp_path / "checkpoints" / "step_30" / "global_step30").mkdir(parents=True)
    source = find_source(tmp_path / named)
    assert source.path == step / "global_step20" / "mp_rank_00_model_states.pt"
    assert source.train_config == tmp_path / "train.yaml"


def test_a_training_config_above_is_not_hidden_by_another_yaml_file(tmp_path: Path) -> None:
    weights = write_plain(tmp_path / "run", {"a": torch.zeros(1)})
    weights = weights.rename(tmp_path / "run" / "step.pt")
    (tmp_path / "run" / "train.yaml").rename(tmp_path / "train.yaml")
    (tmp_path / "run" / "data.yaml").write_text("seed: 1")
    assert find_source(weights).train_config == tmp_path / "train.yaml"
    (tmp_path / "run" / "data.yaml").write_text("multimodal_io: [")
    with pytest.raises(CheckpointError, match=r"data\.yaml is not YAML"):
        find_source(weights)


def test_folders_above_are_found_from_a_path_with_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = write_deepspeed(tmp_path, {"a": torch.zeros(1)})
    (step / "logs").mkdir()
    monkeypatch.chdir(step / "logs")
    assert find_source(Path("..")).train_config == tmp_path / "train.yaml"
    monkeypatch.chdir(step)
    assert find_source(Path()).train_config == tmp_path / "train.yaml"


def test_several_training_configs_are_refused_by_name(tmp_path: Path, tensors: dict[str, Tensor]) -> None:
    write_release(tmp_path, tensors)
    write_train_config(tmp_path, "other.yaml")
    with pytest.raises(CheckpointError, match=r"several training configs \(other\.yaml, train_bagpiper_tts\.yaml\)"):
        find_source(tmp_path)
    assert find_source(tmp_path, tmp_path / "other.yaml").train_config == tmp_path / "other.yaml"


def test_a_note_says_what_is_assumed_without_a_training_config(tmp_path: Path) -> None:
    weights = tmp_path / "a" / "b" / "c" / "weights.pt"
    weights.parent.mkdir(parents=True)
    torch.save({"a": torch.zeros(1)}, weights)
    source = find_source(weights)
    assert source.train_config is None
    assert any("--train-config" in note for note in source.notes)


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        ((), "contains 0 .pt files"),
        (("a.pt", "b.pt"), r"contains 2 .pt files \(a\.pt, b\.pt\)"),
        (("mp_rank_00_model_states.pt", "mp_rank_01_model_states.pt"), "2 mp_rank files: a model split"),
    ],
)
def test_a_folder_without_exactly_one_checkpoint_is_refused(
    tmp_path: Path, names: tuple[str, ...], complaint: str
) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(CheckpointError, match=complaint):
        find_source(tmp_path)


# Refusals


def saved(tmp_path: Path, content: Any, **options: Any) -> Path:
    torch.save(content, tmp_path / "x.pt", **options)
    return tmp_path / "x.pt"


def test_torchs_old_format_is_refused_by_name(tmp_path: Path) -> None:
    file = saved(tmp_path, {"module": {"a": torch.zeros(1)}}, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match="old format"):
        find_source(file).open()


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, {"module": {"a": torch.zeros(1000)}})
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(CheckpointError, match="truncated"):
        find_source(file).open()


def test_a_tensor_beyond_its_bytes_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, {"a": torch.zeros(10)})
    with zipfile.ZipFile(file) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in records.items():
            archive.writestr(name, content[:8] if name.endswith("/data/0") else content)
    with pytest.raises(CheckpointError, match="the bytes of a are cut short"):
        find_source(file).open()


def test_a_compressed_pickle_is_refused_before_it_is_decompressed(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x00" * (1 << 20))
    with pytest.raises(CheckpointError, match="is compressed"):
        find_source(tmp_path / "x.pt").open()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b".",
        b"\x80\x02}q\x00(X",
        b"\x80\x04\x95" + struct.pack("<Q", 1 << 60),
        b"(" * 100_000 + b".",
        b"\x80\x02}r\xff\xff\xff\xff.",
    ],
    ids=["empty", "stop", "cut", "huge frame", "marks", "huge memo"],
)
def test_a_broken_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", content)
    with pytest.raises(CheckpointError, match=r"x\.pt"):
        find_source(tmp_path / "x.pt").open()


@pytest.mark.parametrize("dtype", [torch.complex64, torch.uint16, torch.float8_e4m3fn])
def test_tensors_of_unusual_dtypes_may_accompany_the_model(tmp_path: Path, dtype: torch.dtype) -> None:
    unusual = torch.zeros(2, dtype=dtype)
    state = {"module": {"a": torch.ones(1)}, "odd": unusual, "bytes": torch.zeros(2).untyped_storage()}
    assert find_source(saved(tmp_path, state)).open().keys() == {"a"}
    with pytest.raises(CheckpointError, match=r"must contain tensors only; others: b"):
        find_source(saved(tmp_path, {"module": {"a": torch.ones(1), "b": unusual}})).open()


def test_an_expanded_tensor_is_read_only_if_it_is_small(tmp_path: Path) -> None:
    (stored,) = find_source(saved(tmp_path, {"a": torch.ones(1).expand(1000)})).open().values()
    assert torch.equal(stored.read(), torch.ones(1000))
    with pytest.raises(CheckpointError, match="expanded"):
        find_source(saved(tmp_path, {"a": torch.zeros(1).expand(1 << 40)})).open()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("model.layers.0.mlp.experts.0.up_proj.weight", "mixture of experts"),
        ("multimodal_io_dict.image.encoder.weight", r"1 unexpected \(multimodal_io_dict\.image\.encoder\.weight\)"),
        (f"{CODEC_PREFIX}extra", "1 tensors of the codec do not match its config"),
        ("model.layers.999999.mlp.up_proj.weight", "missing"),
    ],
)
def test_a_tensor_that_is_not_part_of_the_model_is_refused_by_name(
    tmp_path: Path, served: Path, tensors: dict[str, Tensor], tokenizer: Path, name: str, complaint: str
) -> None:
    source = find_source(write_plain(tmp_path, {**tensors, name: torch.zeros(3)}))
    with pytest.raises(CheckpointError, match=rf"weights\.pt: .*{complaint}"):
        plan_conversion(source, tokenizer, settings(served))


def test_a_missing_semantic_part_of_the_codec_is_refused(
    tmp_path: Path, served: Path, tensors: dict[str, Tensor], tokenizer: Path
) -> None:
    name = next(name for name in tensors if name.startswith(CODEC_PREFIX + "semantic_model."))
    source = find_source(write_plain(tmp_path, {key: value for key, value in tensors.items() if key != name}))
    with pytest.raises(CheckpointError, match="1 tensors of the codec do not match its config"):
        plan_conversion(source, tokenizer, settings(served))


def test_integer_weights_are_refused(tmp_path: Path, served: Path, tensors: dict[str, Tensor], tokenizer: Path) -> None:
    source = find_source(write_plain(tmp_path, {**tensors, "model.norm.weight": torch.zeros(96, dtype=torch.int64)}))
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight is torch\.int64; allowed: "):
        plan_conversion(source, tokenizer, settings(served))


def test_a_mixture_of_experts_is_refused_by_its_training_config(
    tmp_path: Path, tensors: dict[str, Tensor], tokenizer: Path, served: Path
) -> None:
    folder = write_release(tmp_path, tensors)
    train_config = folder / "train_bagpiper_tts.yaml"
    train_config.write_text(
        train_config.read_text().replace("model_hf_tag: Qwen/Qwen3-8B-Base", "model_hf_tag: Qwen/Qwen3-30B-A3B")
    )
    with pytest.raises(CheckpointError, match=r"model\.model_hf_tag is 'Qwen/Qwen3-30B-A3B', a mixture of experts"):
        plan_conversion(find_source(folder), tokenizer, settings(served))


# Served in place


@pytest.mark.parametrize("name", ["bagpiper", "speechlm"])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_forks_directory_is_read_in_place(tmp_path: Path, served: Path, name: str, hidden: bool) -> None:
    folder = write_fork(tmp_path / "fork", served, name, hidden=hidden)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert find_source(folder).kind == "served"
    config = checkpoint_config(folder)
    check_served(folder, config)
    original = SpeechLMConfig.from_pretrained(served)
    assert config.ids == original.ids
    assert config.text_config.to_dict() | {"dtype": None} == original.text_config.to_dict() | {"dtype": None}
    assert config.audio_config.n_window == original.audio_config.n_window
    assert config.architectures == original.architectures
    assert config.audio_cfg == 3.0
    tokenizer = json.loads((served_tokenizer(folder, config) / "tokenizer.json").read_text())
    assert tokenizer == json.loads((served / "tokenizer.json").read_text())
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


FORKS_DEFAULTS: dict[str, dict[str, Any]] = {
    "text_config": {
        "vocab_size": 160392, "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "hidden_act": "silu",
        "max_position_embeddings": 40960, "rms_norm_eps": 1e-6, "tie_word_embeddings": False, "rope_theta": 1e6,
        "attention_bias": False,
    },
    "audio_config": {
        "num_mel_bins": 128, "encoder_layers": 32, "encoder_attention_heads": 20, "encoder_ffn_dim": 5120,
        "d_model": 1280, "max_source_positions": 1500, "n_window": 100, "output_dim": 2048, "n_window_infer": 400,
        "conv_chunksize": 500, "downsample_hidden_size": 480,
    },
    "": {"text_token_id": 7, "audio_token_id": 8, "audio_placeholder_token_id": 8, "audio_temperature": 0.8,
         "audio_topk": 20, "text_temperature": 0.6, "text_topk": 20, "eos_token_id": 2, "num_stream": 8},
}  # fmt: skip
"""Defaults of the forks' config classes: transformers does not write a field that has its default."""


@pytest.mark.parametrize("name", ["bagpiper", "speechlm"])
def test_missing_fields_of_a_forks_config_have_the_forks_defaults(tmp_path: Path, served: Path, name: str) -> None:
    folder = write_fork(tmp_path / "fork", served, name)
    whole = checkpoint_config(folder)
    fields = json.loads((folder / "config.json").read_text())
    for part, defaults in FORKS_DEFAULTS.items():
        values = fields[part] if part else fields
        for key in [key for key, value in values.items() if key in defaults and defaults[key] == value]:
            del values[key]
    assert "rope_theta" not in fields["text_config"]
    assert "text_token_id" not in fields
    (folder / "config.json").write_text(json.dumps(fields))
    config = checkpoint_config(folder)
    assert config.to_dict() == whole.to_dict()
    assert config.decoding == whole.decoding


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("audio_temperature", "hot", "a number from 0 to 2"),
        ("text_temperature", -1, "a number from 0 to 2"),
        ("audio_topk", None, "a whole number of at least 1, or -1"),
        ("audio_cfg", 0.5, "a number from 1 to 20"),
        ("audio_max_frames", 0.5, "a whole number from 1 to 1000000"),
    ],
)
def test_impossible_decoding_defaults_of_a_config_are_refused(
    tmp_path: Path, served: Path, field: str, value: Any, allowed: str
) -> None:
    folder = write_fork(tmp_path / "fork", served)
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {field: value}))
    with pytest.raises(CheckpointError, match=rf"config\.json: {field} is {value}; allowed: {allowed}"):
        checkpoint_config(folder)


def test_decoding_defaults_of_a_forks_config_are_kept(tmp_path: Path, served: Path) -> None:
    folder = write_fork(tmp_path / "fork", served)
    fields = json.loads((folder / "config.json").read_text())
    defaults = {"audio_cfg": 1.5, "audio_min_frames": 9, "audio_max_frames": 99, "text_max_tokens": 77}
    (folder / "config.json").write_text(json.dumps(fields | defaults))
    config = checkpoint_config(folder)
    assert {name: getattr(config, name) for name in defaults} == defaults


def test_a_forks_directory_may_lack_the_codec(tmp_path: Path, served: Path) -> None:
    folder = write_fork(tmp_path / "fork", served, with_codec=False)
    check_served(folder, checkpoint_config(folder))


def test_a_converted_directory_is_not_taken_for_a_forks(served: Path) -> None:
    assert checkpoint_config(served).audio_cfg == 1.0
    assert checkpoint_config(served).decoding_source == "config.json"


def test_a_deepspeed_state_file_may_be_named_directly(tmp_path: Path) -> None:
    step = write_deepspeed(tmp_path, {"a": torch.zeros(1)})
    by_file = find_source(step / "mp_rank_00_model_states.pt")
    assert by_file == find_source(step) == find_source(tmp_path)
    assert by_file.train_config == tmp_path / "train.yaml"
    assert by_file.open().keys() == {"a"}
    assert not (tmp_path / "pwned").exists()
