"""The settings that SGLang would choose for the scripts in launch/ on cards that this machine lacks."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "launch").is_dir())
NAMES = ("4090", "5090", "L40S", "A100-40", "A100-80", "H100", "H200", "B200")
ROWS = ((1, "bfloat16"), (4, "bfloat16"), (1, "fp8"))
ROWS_BY_CARD = [(name, gpus, served_in) for gpus, served_in in ROWS for name in NAMES]
PARTS = ("weights", "KV cache", "context", "graphs", "logits", "draws", "activations", "codec", "free")


@pytest.fixture(scope="module")
def table() -> dict[tuple[str, int, str], dict[str, Any]]:
    """Return rows by card, number of GPUs and weight type, from another process: in this one SGLang has found a CPU."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.cards", "--json"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout, result.stderr
    return {(row["card"], row["GPUs"], row["served in"]): row for row in json.loads(result.stdout.splitlines()[-1])}


@pytest.mark.parametrize(("name", "gpus", "served_in"), ROWS_BY_CARD)
def test_a_script_starts_with_its_defaults(table: dict[Any, Any], name: str, gpus: int, served_in: str) -> None:
    assert table[name, gpus, served_in]["starts"] == "yes"


@pytest.mark.parametrize(("name", "gpus", "served_in"), ROWS_BY_CARD)
def test_the_memory_adds_up_and_is_not_overcommitted(
    table: dict[Any, Any], name: str, gpus: int, served_in: str
) -> None:
    row = table[name, gpus, served_in]
    assert sum(row[part] for part in PARTS) == pytest.approx(row["memory"], abs=0.1)
    assert row["free"] >= 0


@pytest.mark.parametrize(("name", "gpus", "served_in"), ROWS_BY_CARD)
def test_the_guides_memory_share_is_an_upper_limit(table: dict[Any, Any], name: str, gpus: int, served_in: str) -> None:
    row = table[name, gpus, served_in]
    assert row["mem-fraction"] < 0.9
    assert row["weights"] + row["KV cache"] < 0.9 * row["memory"]


def test_a_card_whose_default_attention_needs_pages_of_64_gets_another(table: dict[Any, Any]) -> None:
    assert table["B200", 1, "bfloat16"]["attention"] == "flashinfer"


def test_hopper_keeps_sglangs_default_attention(table: dict[Any, Any]) -> None:
    assert {table[name, 1, "bfloat16"]["attention"] for name in ("H100", "H200")} == {"fa3"}


@pytest.mark.parametrize(("name", "gpus", "rows"), [("H100", 1, 1024), ("H100", 4, 2048), ("B200", 4, 2048)])
def test_graphs_cover_all_requests_that_may_run(table: dict[Any, Any], name: str, gpus: int, rows: int) -> None:
    assert table[name, gpus, "bfloat16"]["graph rows"] == rows


def test_a_small_card_has_no_graphs_for_rows_that_its_cache_cannot_hold(table: dict[Any, Any]) -> None:
    row = table["4090", 1, "bfloat16"]
    assert 64 <= row["graph rows"] < row["positions"] / 64


def test_fp8_leaves_room_for_more_positions_and_rows(table: dict[Any, Any]) -> None:
    wide, narrow = table["4090", 1, "bfloat16"], table["4090", 1, "fp8"]
    assert narrow["weights"] == pytest.approx(10.15, abs=0.05)
    assert narrow["positions"] > 2 * wide["positions"]
    assert narrow["graph rows"] > 2 * wide["graph rows"]
