"""The description of a stage that the HTTP process sends to the scheduler is parsed once; errors name the field."""

from types import SimpleNamespace
from typing import Any

import pytest

from sglang_speechlm.sglang_hooks.req import entry, is_audio, read_stage, refuse, stage_of
from sglang_speechlm.stage import Stage


def queued(custom_params: Any, seed: int | None = None) -> Any:
    """A request with the parts of SGLang's Req that a stage uses."""
    params = SimpleNamespace(custom_params=custom_params, sampling_seed=seed, top_k=20)
    return SimpleNamespace(
        rid="a",
        sampling_params=params,
        kv=SimpleNamespace(req_pool_idx=3),
        origin_input_ids=[1, 2],
        set_finish_with_abort=lambda _: None,
    )


def test_a_stage_arrives_unchanged() -> None:
    stage = Stage(audio=True, min_frames=8, cfg=3, continues=True, pieces=(25, 8))
    req = queued({**stage.model_dump(), "__req__": object()})
    assert read_stage(req) is None
    assert stage_of(req) == stage
    assert stage_of(req).is_guided


@pytest.mark.parametrize("custom_params", [None, {}])
def test_without_parameters_a_stage_is_text(custom_params: Any) -> None:
    req = queued(custom_params)
    assert read_stage(req) is None
    assert not is_audio(req)
    assert not stage_of(req).is_guided


def test_a_text_is_not_guided() -> None:
    assert not Stage(cfg=3).is_guided


@pytest.mark.parametrize(
    ("custom_params", "message"),
    [
        ({"audio": "yes"}, "custom_params.audio: .*boolean; got 'yes'"),
        ({"min_frames": -5}, "custom_params.min_frames: .*greater than or equal to 0; got -5"),
        ({"min_frames": 2**31}, "custom_params.min_frames: .*less than 2147483648"),
        ({"min_frames": True}, "custom_params.min_frames: .*integer; got True"),
        ({"cfg": float("nan")}, "custom_params.cfg: .*got nan"),
        ({"cfg": 50}, "custom_params.cfg: .*less than or equal to 20; got 50"),
        ({"frames": 3}, "custom_params.frames: .*not permitted; got 3"),
        (["audio"], "custom_params: .*got \\['audio'\\]"),
    ],
)
def test_an_invalid_stage_is_refused_by_field(custom_params: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stage.parse(custom_params)
    assert read_stage(queued(custom_params)) is not None


def test_a_seed_beyond_64_bits_is_refused() -> None:
    assert read_stage(queued(None, seed=2**63)) == f"sampling_seed: must fit in 64 bits; got {2**63}"


def test_a_refused_request_is_processed_as_text() -> None:
    req = queued({"audio": True, "cfg": 3.0}, seed=2**70)
    read_stage(req)
    refuse(req, "reason")
    assert not is_audio(req)
    assert -(2**63) <= entry(req).seed < 2**63
