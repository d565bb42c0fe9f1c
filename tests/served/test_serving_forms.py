"""A server answers with the reference's ids whichever form its weights came in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from checkpoint_forms import released_tensors, write_fork, write_release, write_tokenizer, write_train_config
from server import BY_NAME, Client, Judge, serving

from sglang_speechlm.checkpoint import CheckpointSpec, build_checkpoint

SPEC = CheckpointSpec(seed=4, audio_d_model=64, audio_heads=1, codec_layer_size=1025, codec_storage="directory")
"""With the sizes that a conversion takes for granted: 64 dimensions a head, the released codec's codebooks."""
POOL = ("--max-total-tokens", "8192")
NAMES = ("audio question", "spoken answer to audio", "guided answer to audio", "odd text")
FORMS = ("release", "fork")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_checkpoint(tmp_path_factory.mktemp("built") / "served", spec=SPEC)


@pytest.fixture(scope="module")
def judge(built: Path) -> Judge:
    return Judge.load(built)


@pytest.fixture(scope="module", params=FORMS)
def client(request: pytest.FixtureRequest, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp(request.param)
    options: tuple[str, ...] = POOL
    if request.param == "fork":
        model = write_fork(folder / "fork", built, codec=str(built / "xcodec"))
    else:
        model = write_release(folder / "release", released_tensors(built))
        write_train_config(model, "train_bagpiper_tts.yaml", codec_hf_model_tag=str(built / "xcodec"))
        tokenizer = write_tokenizer(folder / "qwen3")
        options = (*POOL, "--tokenizer-path", str(tokenizer), "--convert-dir", str(folder / "converted"))
    with serving(model, folder / "log", *options) as server, Client(server.url) as speaking:
        yield speaking


def test_answers_are_the_references(client: Client, judge: Judge) -> None:
    cases = [BY_NAME[name] for name in NAMES]
    bodies = [case.body(audio_min_frames=SPEC.num_stream) for case in cases]
    assert judge.compare(cases, client.chat_at_once(bodies)) > 500


def test_a_spoken_answer_has_sound(client: Client) -> None:
    answer = client.http.post("/v1/audio/speech", json={"input": "Hello.", "response_format": "wav"})
    assert answer.status_code == 200, answer.text
    assert answer.content[:4] == b"RIFF"
