"""Random checkpoints: their layout, and whether their answers can tell a correct decoder from a wrong one."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import Answer, Reference, Request
from safetensors.torch import load_file
from torch import Tensor

from sglang_speechlm.checkpoint import CODEC_PREFIX, CheckpointSpec, build_checkpoint, check_tensors
from sglang_speechlm.checkpoint.__main__ import main
from sglang_speechlm.config import SpeechLMConfig

SPEC = CheckpointSpec()
SENTENCES = [
    "What is the weather like today?", "Please tell me a short story about a cat.", "Hello!", "How many planets?",
    "Say the following sentence slowly.", "Describe the sound of a closing door.", "Thank you very much!", "Zwölf?",
    "Can you hear the music?", "one, two, three", "Is there anything else?", "Why?",
]  # fmt: skip


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("checkpoint"), spec=SPEC)


@pytest.fixture(scope="module")
def reference(directory: Path) -> Reference:
    return Reference.load(directory)


@pytest.fixture(scope="module")
def answers(reference: Reference) -> list[Answer]:
    return [
        reference.answer(Request([("user", [("text", text)])], speak=True, text_max_tokens=80, max_tokens=230))
        for text in SENTENCES
    ]


def tensors_of(directory: Path) -> dict[str, Tensor]:
    return {name: tensor for file in directory.glob("*.safetensors") for name, tensor in load_file(file).items()}


# Layout


def test_the_directory_matches_its_config(directory: Path) -> None:
    config = SpeechLMConfig.from_pretrained(directory)
    tensors = tensors_of(directory)
    check_tensors({name: tuple(tensor.shape) for name, tensor in tensors.items()}, config)
    assert any(name.startswith(CODEC_PREFIX) for name in tensors)
    assert json.loads((directory / "config.json").read_text())["dtype"] == "float32"


def test_the_full_vocabulary_is_the_released_one() -> None:
    ids = CheckpointSpec(text_vocab_size=151936, codec_layer_size=1025).config().ids
    assert (ids.text_end, ids.codec_begin, ids.vocab_size) == (152192, 152192, 160392)


def test_tensors_depend_on_the_spec_and_its_seed_alone(directory: Path, tmp_path: Path) -> None:
    same_seed = tensors_of(build_checkpoint(tmp_path / "again", spec=SPEC))
    other_seed = tensors_of(build_checkpoint(tmp_path / "other", spec=replace(SPEC, seed=1)))
    tensors = tensors_of(directory)
    assert all(torch.equal(tensors[name], same_seed[name]) for name in tensors)
    lm_names = [name for name in tensors if not name.startswith(CODEC_PREFIX)]
    assert not any(torch.equal(tensors[name], other_seed[name]) for name in lm_names)


def test_shards_together_hold_the_tensors_of_one_file(directory: Path, tmp_path: Path) -> None:
    sharded = build_checkpoint(tmp_path / "sharded", spec=replace(SPEC, shard_bytes=400_000))
    index = json.loads((sharded / "model.safetensors.index.json").read_text())["weight_map"]
    tensors, expected = tensors_of(sharded), tensors_of(directory)
    assert len(set(index.values())) > 3
    assert index.keys() == tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_bfloat16_applies_to_everything_except_the_codec(tmp_path: Path) -> None:
    built = build_checkpoint(tmp_path, spec=replace(SPEC, dtype="bfloat16"))
    dtypes = {name.startswith(CODEC_PREFIX): tensor.dtype for name, tensor in tensors_of(built).items()}
    assert dtypes == {True: torch.float32, False: torch.bfloat16}
    assert SpeechLMConfig.from_pretrained(built).text_config.dtype == torch.bfloat16


def test_the_codec_sounds_the_same_wherever_it_is_stored(reference: Reference, tmp_path: Path) -> None:
    apart = build_checkpoint(tmp_path, spec=replace(SPEC, codec_storage="directory"))
    assert not any(name.startswith(CODEC_PREFIX) for name in tensors_of(apart))
    codes = np.random.default_rng(0).integers(64, size=(12, 8))
    sound = reference.audio(codes)
    assert sound.shape == (12 * 320,)
    assert np.array_equal(sound, Reference.load(apart).audio(codes))


def test_every_code_is_heard(reference: Reference) -> None:
    codes = np.random.default_rng(0).integers(64, size=(5, 8))
    sound = reference.audio(codes)
    assert 0.02 < sound.std() < 0.5
    for stream in range(8):
        changed = codes.copy()
        changed[2, stream] = (changed[2, stream] + 1) % 64
        assert np.abs(reference.audio(changed) - sound).max() > 1e-3


def test_a_directory_that_is_not_empty_is_left_alone(directory: Path) -> None:
    with pytest.raises(FileExistsError, match="is not empty"):
        build_checkpoint(directory, spec=SPEC)


def test_the_command_follows_its_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--output", str(tmp_path / "new"), "--layers", "1", "--n-window", "100", "--tie-word-embeddings"])
    config = SpeechLMConfig.from_pretrained(tmp_path / "new")
    assert (config.text_config.num_hidden_layers, config.audio_config.n_window) == (1, 100)
    assert "lm_head.weight" not in tensors_of(tmp_path / "new")
    assert "MB" in capsys.readouterr().out


def test_the_command_refuses_a_vocabulary_that_is_too_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--output", str(tmp_path / "new"), "--text-vocab-size", "100"])
    assert "text_vocab_size must be at least 261; got 100" in capsys.readouterr().err


# Answers


def test_the_best_logit_is_clearly_above_the_second(answers: list[Answer]) -> None:
    assert min(answer.margin for answer in answers) > 1e-3


def test_texts_and_sound_end_by_themselves(answers: list[Answer]) -> None:
    assert sum(answer.text_end is not None for answer in answers) >= 10
    spoken = [len(answer.frames) for answer in answers if answer.end == "stop" and answer.frames is not None]
    assert len(spoken) >= 8
    assert len(set(spoken)) > 3


def test_answers_differ_and_do_not_repeat_one_id(answers: list[Answer]) -> None:
    assert len({tuple(answer.text_ids) for answer in answers}) == len(answers)
    assert all(len(set(answer.text_ids)) > len(answer.text_ids) / 2 for answer in answers)
    for stream in range(8):
        assert (
            len({int(code) for answer in answers if answer.codes is not None for code in answer.codes[:, stream]}) > 8
        )


def audio_logits(reference: Reference, rows: list[list[int]]) -> Tensor:
    """Logits [len(rows), num_stream, candidates] after each of ``rows``."""
    with torch.inference_mode():
        hidden = reference.backbone(inputs_embeds=reference.embed(rows)[None]).last_hidden_state[0]
        return torch.stack([reference.audio_logits(state) for state in hidden])


def some_frames(reference: Reference) -> list[list[int]]:
    rng = np.random.default_rng(0)
    ids = reference.ids
    frames = [[ids.codec_pad(stream) + int(rng.integers(65)) for stream in range(8)] for _ in range(40)]
    return [[ids.bos] + [0] * 7, [ids.audio] + [0] * 7, *frames]


@pytest.mark.parametrize("back", [1, 5])
def test_every_stream_depends_on_every_stream_of_earlier_frames(reference: Reference, back: int) -> None:
    rows = some_frames(reference)
    before = audio_logits(reference, rows)[-1]
    for stream in range(8):
        changed = [list(row) for row in rows]
        changed[-back][stream] = reference.ids.codec_pad(stream) + (rows[-back][stream] + 7) % 65
        assert ((audio_logits(reference, changed)[-1] - before).abs().amax(dim=1) > 0.5).all()


def test_stream_embeddings_matter_and_so_would_the_first_if_it_were_added(
    directory: Path, reference: Reference
) -> None:
    stored = tensors_of(directory)
    logits = audio_logits(reference, some_frames(reference))
    for stream in range(8):
        shift = (stored["lm_head.weight"] @ stored["stream_emb.weight"][stream])[reference.audio_candidates[stream]]
        wrong = logits[:, stream] + (shift if stream == 0 else -shift)
        assert (wrong.argmax(dim=1) != logits[:, stream].argmax(dim=1)).sum() > 4


def test_different_sounds_give_different_features(reference: Reference) -> None:
    time = np.arange(16000) / 16000
    low, high = (reference.hear(np.sin(2 * np.pi * pitch * time).astype(np.float32)) for pitch in (300.0, 1200.0))
    assert low.shape == (13, SPEC.hidden_size)
    assert 0.3 < low.std() < 3
    assert (low - high).std() > 0.3
