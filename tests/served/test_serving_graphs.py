"""Decode graphs, replayed on a CPU: the ids equal the reference's, and frames use only the codec's rows of the head."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from server import BY_NAME, CASES, Client, Judge, Server, serving
from shared import POOL, SPEC

REPLAY = "Decode graph replay:"
HEAD = re.compile(r"head of (\d+) ids for (\d+) rows")
IDS = SPEC.config().ids
CODEC_ROWS = IDS.codec_end - IDS.codec_begin + 1


@pytest.fixture(scope="module")
def server(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("graphs") / "log"
    with serving(served_checkpoint, log, *POOL, launcher="tests.support.played_graphs") as started:
        yield started


def heads_of(output: str) -> set[int]:
    """Return the numbers of ids of the heads that were used."""
    return {int(ids) for ids, _ in HEAD.findall(output)}


@pytest.mark.parametrize("count", [4, 12])
def test_concurrent_answers_of_all_kinds_equal_the_reference(
    count: int, server: Server, client: Client, judge: Judge
) -> None:
    before = server.output().count(REPLAY)
    judge.compare(CASES[:count], client.chat_at_once([case.body() for case in CASES[:count]]))
    assert server.output().count(REPLAY) > before + 20


@pytest.mark.parametrize("cfg", [1, 3])
def test_frames_use_only_the_codecs_rows_of_the_head(cfg: float, server: Server, client: Client) -> None:
    begin = len(server.output())
    client.chat(BY_NAME["given text"].body(cfg=cfg))
    steps = server.output()[begin:].split(REPLAY)
    assert len(steps) > 10
    assert heads_of("".join(steps[1:])) == {CODEC_ROWS}
