"""The distribution of tensors over files."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from sglang_speechlm.checkpoint.shards import INDEX_FILE, plan_shards, stored_dtype, write_index, write_shard


@given(sizes=st.lists(st.integers(0, 100), min_size=1, max_size=30), limit=st.integers(1, 120))
def test_every_tensor_is_in_one_file_in_order_and_no_file_is_too_large(sizes: list[int], limit: int) -> None:
    named = {f"tensor{number}": size for number, size in enumerate(sizes)}
    shards = plan_shards(named, limit)
    assert [name for names in shards.values() for name in names] == list(named)
    assert all(len(names) == 1 or sum(named[name] for name in names) <= limit for names in shards.values())


def test_files_are_named_as_safetensors_loaders_expect() -> None:
    assert list(plan_shards({"a": 1, "b": 1}, 2)) == ["model.safetensors"]
    assert list(plan_shards({"a": 1, "b": 2}, 2)) == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ]


def test_a_shard_size_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="shard_bytes must be at least 1; got 0"):
        plan_shards({"a": 1}, 0)


def test_the_index_says_which_file_holds_each_tensor(tmp_path: Path) -> None:
    write_index(tmp_path, {"x.safetensors": ["a"], "y.safetensors": ["b", "c"]}, {"a": 1, "b": 2, "c": 3})
    assert json.loads((tmp_path / INDEX_FILE).read_text()) == {
        "metadata": {"total_size": 6},
        "weight_map": {"a": "x.safetensors", "b": "y.safetensors", "c": "y.safetensors"},
    }


def test_a_file_under_its_final_name_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"rubbish of an earlier run")
    write_shard(path, {"a": torch.arange(6.0).reshape(2, 3).T})
    assert torch.equal(load_file(path)["a"], torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_embeddings_determine_the_stored_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    assert stored_dtype(tmp_path) == torch.bfloat16
    write_shard(tmp_path / "a.safetensors", {"stream_emb.weight": torch.ones(2, dtype=torch.float64)})
    write_shard(tmp_path / "b.safetensors", {"model.embed_tokens.weight": torch.ones(3, 2, dtype=dtype)})
    assert stored_dtype(tmp_path) == dtype
