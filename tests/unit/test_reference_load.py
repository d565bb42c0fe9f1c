"""The reference on served directories from the builder."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reference import Reference, Request
from transformers import XcodecModel

from sglang_speechlm.checkpoint import CheckpointSpec, build_checkpoint

SPECS: dict[str, dict[str, Any]] = {
    "tensors": {},
    "bfloat16": {"dtype": "bfloat16", "shard_bytes": 200_000},
    "tied": {"tie_word_embeddings": True},
    "directory": {"codec_storage": "directory"},
}


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        name: build_checkpoint(tmp_path_factory.mktemp("checkpoint") / name, spec=CheckpointSpec(**spec))
        for name, spec in SPECS.items()
    }


@pytest.mark.parametrize("name", SPECS)
def test_a_built_checkpoint_hears_writes_and_speaks_in_float32(directories: dict[str, Path], name: str) -> None:
    reference = Reference.load(directories[name])
    parameters = [*reference.backbone.parameters(), *reference.encoder.parameters(), reference.lm_head]
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    clip = np.sin(np.arange(16000) / 20).astype(np.float32)
    request = Request([("user", [("audio", clip), ("text", "What is this?")])], speak=True, text_max_tokens=10)
    answer = reference.answer(request)
    assert answer.codes is not None
    assert len(answer.codes) > 0
    assert answer.margin > 1e-4
    sound = reference.audio(answer.codes)
    assert sound.shape == (320 * len(answer.codes),)
    assert sound.std() > 0.01


def test_the_codec_is_the_same_from_tensors_and_from_its_directory(directories: dict[str, Path]) -> None:
    codes = np.random.default_rng(0).integers(0, 64, (20, 8))
    codec = XcodecModel.from_pretrained(directories["directory"] / "xcodec")
    with torch.inference_mode():
        expected = codec.decode(torch.from_numpy(codes).T[None]).audio_values[0, 0]
    for name in ("tensors", "directory"):
        assert torch.equal(torch.from_numpy(Reference.load(directories[name]).audio(codes)), expected)


def test_text_of_a_served_directory_becomes_its_text_ids(directories: dict[str, Path]) -> None:
    reference = Reference.load(directories["tensors"])
    tokens = reference.encode("Hello <|assistant|> <|im_end|> wörld")
    assert all(reference.ids.text_begin <= token < reference.ids.text_end for token in tokens)
    assert reference.tokenizer.decode(tokens) == "Hello <|assistant|> <|im_end|> wörld"
    assert reference.encode("!") == [0]
