"""The theoretical lower bound of a step's time on a GPU."""

from pathlib import Path

import pytest

from benchmarks.checkpoints import released_sizes
from benchmarks.floor import cache_bytes, floor_ms, nominal_bandwidth, weight_bytes
from benchmarks.gpu import with_floors
from benchmarks.step_cost import PROMPT, STEPS, body
from sglang_speechlm.config import SpeechLMConfig

RELEASED = SpeechLMConfig()


def test_a_step_of_the_released_model_reads_all_its_parameters() -> None:
    layer = 4096 * (32 + 2 * 8) * 128 + 32 * 128 * 4096 + 3 * 4096 * 12288 + 2 * 4096 + 2 * 128
    assert weight_bytes(RELEASED) == 2 * (36 * layer + 4096 + 160392 * 4096)


def test_a_position_of_the_released_model_takes_147_kilobytes() -> None:
    assert cache_bytes(RELEASED, 1) == 36 * 2 * 8 * 128 * 2


def test_an_h100_has_its_nominal_bandwidth() -> None:
    assert nominal_bandwidth(2_619_000, 5120) == pytest.approx(3.35e12, rel=1e-3)


def test_the_floor_is_weights_and_cache_divided_by_the_bandwidth() -> None:
    bandwidth = 2e12
    without_cache = floor_ms(RELEASED, rows=1, positions=0, bytes_per_second=bandwidth)
    assert without_cache == pytest.approx(weight_bytes(RELEASED) / 2e9)
    with_cache = floor_ms(RELEASED, rows=16, positions=1000, bytes_per_second=bandwidth)
    assert with_cache - without_cache == pytest.approx(cache_bytes(RELEASED, 16000) / 2e9)


def test_a_guided_answer_is_compared_with_the_floor_of_two_rows() -> None:
    row = with_floors({"rows": 4, "text_ms": 10.0, "guided_ms": 12.0}, RELEASED, 100, 1e12)
    second_row_ms = cache_bytes(RELEASED, 4 * (PROMPT + 8 + 50)) / 1e9
    assert row["guided_floor_ms"] - row["text_floor_ms"] == pytest.approx(second_row_ms, abs=2e-3)
    assert row["text_by_floor"] == pytest.approx(10 / row["text_floor_ms"], rel=1e-3)


@pytest.mark.parametrize("kind", [kind for kind, answers in STEPS.items() if len(answers) == 1])
def test_prompts_have_the_length_that_the_floor_assumes(kind: str) -> None:
    assert len(body(kind, 10, 3)["input_ids"]) == PROMPT


def test_a_directory_of_the_released_sizes_takes_little_disk_space(tmp_path: Path) -> None:
    config = SpeechLMConfig.from_pretrained(released_sizes(tmp_path / "model"))
    assert config.text_config.num_hidden_layers == 36
    assert config.ids == RELEASED.ids
    assert sum(file.stat().st_size for file in (tmp_path / "model").glob("*.safetensors")) < 50e6
