"""A server generates the reference's ids whatever form its weights had.

All forms that need conversion result in the same directory (tests/unit/test_checkpoint_source.py), so only one of them
is served here.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from checkpoint_forms import (
    released_tensors,
    write_fork,
    write_release,
    write_tokenizer,
    write_train_config,
)
from server import BY_NAME, CASES, Client, Judge, assert_same_sound, message_of, samples_of, serving
from shared import POOL
from shared import SPEC as SMALL

from sglang_speechlm.checkpoint import build_checkpoint

SPEC = replace(SMALL, seed=8, audio_d_model=64, audio_heads=1, codec_layer_size=1025, codec_storage="directory")
"""The sizes that a conversion assumes: 64 dimensions per head, the released codec's codebooks."""
MARGIN = 5e-4
"""Minimum lead of the best logit over the second: ten times the rounding of float32."""
ALONE = "guided answer to audio"
"""A case that uses every weight: of the encoder, of text and of all streams."""
AT_ONCE = CASES[:15]
"""Together with ``ALONE``, 16 requests of every kind: text and clips, written and spoken, guided and unguided."""


def _release(folder: Path, built: Path) -> tuple[Path, list[str]]:
    model = write_release(folder / "native", released_tensors(built))
    write_train_config(folder / "native", "train_bagpiper_tts.yaml", codec_hf_model_tag=str(built / "xcodec"))
    tokenizer = write_tokenizer(folder / "qwen3")
    return model, ["--tokenizer-path", str(tokenizer), "--convert-dir", str(folder / "converted")]


def _fork(name: str) -> Callable[[Path, Path], tuple[Path, list[str]]]:
    return lambda folder, built: (write_fork(folder / "fork", built, name, codec=str(built / "xcodec")), [])


FORMS = {
    "release": _release,
    "bagpiper fork": _fork("bagpiper"),
    "speechlm fork": _fork("speechlm"),
}
"""Each writes a checkpoint in its form and returns the path and the options for the command line."""

_sampled: dict[str, Any] = {}
"""The sampled answer, which must be the same on every server."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("built") / "served", spec=SPEC)


@pytest.fixture(scope="module")
def judge(built: Path) -> Judge:
    return Judge.load(built, MARGIN)


@pytest.fixture(scope="module", params=FORMS)
def client(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("form")
    model, options = FORMS[request.param](folder, built)
    with serving(model, folder / "log", *POOL, *options) as server, Client(server.url) as client:
        yield client


def _body(name: str) -> dict[str, Any]:
    """Return a case's body without the minimum of frames that a release's decoding would add."""
    case = BY_NAME[name]
    least = case.request.audio_min_frames
    return case.body(audio_min_frames=SPEC.num_stream if least is None else least)


def test_a_single_answer_equals_the_reference(client: Client, judge: Judge) -> None:
    client.clear_cache()
    assert judge.compare([BY_NAME[ALONE]], [client.chat(_body(ALONE))])


@pytest.mark.parametrize("client", ["release"], indirect=True)
def test_sixteen_concurrent_answers_equal_the_reference(client: Client, judge: Judge) -> None:
    cases = [*AT_ONCE, BY_NAME[ALONE]]
    assert len(cases) == 16
    assert judge.compare(cases, client.chat_at_once([_body(case.name) for case in cases])) > 1000


def test_a_sampled_answer_and_its_sound_do_not_depend_on_the_form(client: Client) -> None:
    body = _body(ALONE)
    body["temperature"], body["top_k"], body["speechlm"]["seed"] = 0.9, 20, 7
    message = message_of(client.chat(body))
    answer_ids = {"text": message["speechlm"]["text_ids"], "codes": message["speechlm"]["codes"]}
    sound = samples_of(message)
    assert answer_ids["codes"]
    assert _sampled.setdefault("answer", answer_ids) == answer_ids
    # The rounding of samples depends on which windows the codec decodes together.
    assert_same_sound(sound, _sampled.setdefault("sound", sound))


def test_a_spoken_answer_has_sound(client: Client) -> None:
    answer = client.http.post("/v1/audio/speech", json={"input": "Hello.", "response_format": "wav"})
    assert answer.status_code == 200, answer.text
    assert answer.content[:4] == b"RIFF"
