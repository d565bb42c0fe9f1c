"""With the other released encoder, other sizes, and chunked prefill, a server generates the reference's ids."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from server import BY_NAME, CASES, Client, Judge, Server, message_of, samples_of, serving
from shared import POOL
from shared import SPEC as SMALL

from sglang_speechlm.checkpoint import build_checkpoint

SPEC = replace(
    SMALL,
    seed=0,
    text_vocab_size=1024,
    codec_layer_size=129,
    n_window=100,
    n_window_infer=400,
    codec_storage="directory",
    shard_bytes=400_000,
)


@pytest.fixture(scope="module")
def served_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("windows") / "small", spec=SPEC)


@pytest.fixture(scope="module")
def judge(served_checkpoint: Path) -> Judge:
    return Judge.load(served_checkpoint)


@pytest.fixture(scope="module")
def server(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    options = ("--chunked-prefill-size", "48", *POOL)
    with serving(served_checkpoint, tmp_path_factory.mktemp("windows") / "log", *options) as started:
        yield started


@pytest.mark.parametrize("first", [0, len(CASES) - 16])
def test_sixteen_concurrent_answers_equal_the_reference(first: int, client: Client, judge: Judge) -> None:
    cases = CASES[first : first + 16]
    assert judge.compare(cases, client.chat_at_once([case.body() for case in cases])) > 1000


def test_the_sound_of_an_answer_is_decoded_from_its_codes(client: Client, judge: Judge) -> None:
    message = message_of(client.chat(BY_NAME["spoken answer to audio"].body()))
    expected = judge.reference.audio(np.array(message["speechlm"]["codes"]))
    np.testing.assert_allclose(samples_of(message), np.clip(expected, -1, 1), rtol=0, atol=1e-4)
