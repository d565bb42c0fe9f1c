"""What the scripts of launch/ would be served with on cards that are not here, by SGLang's own resolution."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = next(folder for folder in Path(__file__).resolve().parents if (folder / "launch").is_dir())
NAMES = ("4090", "5090", "L40S", "A100-40", "A100-80", "H100", "H200", "B200")
ALL = [(name, gpus) for gpus in (1, 4) for name in NAMES]
PARTS = ("weights", "KV cache", "context", "graphs", "logits", "draws", "activations", "codec", "free")


@pytest.fixture(scope="module")
def table() -> dict[tuple[str, int], dict[str, Any]]:
    """By card and GPUs. In a process of its own: SGLang has found a CPU in this one."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.cards", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return {(row["card"], row["GPUs"]): row for row in json.loads(done.stdout.splitlines()[-1])}


@pytest.mark.parametrize(("name", "gpus"), ALL)
def test_a_scripts_defaults_come_up(table: dict[Any, Any], name: str, gpus: int) -> None:
    assert table[name, gpus]["comes up"] == "yes"


@pytest.mark.parametrize(("name", "gpus"), ALL)
def test_the_memory_adds_up_and_nothing_is_promised_twice(table: dict[Any, Any], name: str, gpus: int) -> None:
    row = table[name, gpus]
    assert sum(row[part] for part in PARTS) == pytest.approx(row["memory"], abs=0.1)
    assert row["free"] >= 0


@pytest.mark.parametrize(("name", "gpus"), ALL)
def test_the_guides_share_is_a_ceiling_and_not_what_is_taken(table: dict[Any, Any], name: str, gpus: int) -> None:
    row = table[name, gpus]
    assert row["mem-fraction"] < 0.9
    assert row["weights"] + row["KV cache"] < 0.9 * row["memory"]


def test_a_card_whose_own_attention_wants_pages_of_64_is_given_another(table: dict[Any, Any]) -> None:
    assert table["B200", 1]["attention"] == "flashinfer"


def test_hopper_keeps_sglangs_own_attention(table: dict[Any, Any]) -> None:
    assert {table[name, 1]["attention"] for name in ("H100", "H200")} == {"fa3"}


@pytest.mark.parametrize(("name", "gpus", "rows"), [("H100", 1, 1024), ("H100", 4, 2048), ("B200", 4, 2048)])
def test_graphs_go_as_far_as_requests_may_run(table: dict[Any, Any], name: str, gpus: int, rows: int) -> None:
    assert table[name, gpus]["graph rows"] == rows


def test_a_small_card_has_no_graphs_for_rows_that_its_cache_cannot_hold(table: dict[Any, Any]) -> None:
    row = table["4090", 1]
    assert 64 <= row["graph rows"] < row["positions"] / 64
