"""Frames leave the scheduler when they complete a piece of sound, not after every step."""

from types import SimpleNamespace
from typing import Any

from sglang_speechlm.codec import PiecePolicy
from sglang_speechlm.codec.windows import Context, WindowPlanner
from sglang_speechlm.sglang_hooks.outputs import send_due
from sglang_speechlm.stage import TEXT_STAGE, Stage

CONTEXT, DELAY, POLICY = Context(10, 10), 7, PiecePolicy()
SPOKEN = Stage(audio=True, pieces=POLICY.completed_by(CONTEXT.right + DELAY))


def request(stage: Stage) -> Any:
    return SimpleNamespace(speechlm_stage=stage, output_ids=[], finished_reason=None)


def is_sent(req: Any) -> bool:
    """Whether a request's output is sent after a step that adds an id."""
    req.output_ids.append(0)
    (_, due, _, _), _ = send_due(None, [req], False)
    return due == [req]


def counts_that_complete_a_piece(frames: int) -> list[int]:
    """The numbers of frames at which the codec process can decode another piece, according to its planner."""
    planner = WindowPlanner(CONTEXT, POLICY)
    counts = []
    for count in range(1, frames + 1):
        planner.push(count > DELAY)
        if (window := planner.peek()) is not None:
            planner.advance(window)
            counts.append(count)
    return counts


def test_after_the_first_frame_only_outputs_that_complete_a_piece_are_sent() -> None:
    req = request(SPOKEN)
    assert [count for count in range(1, 501) if is_sent(req)] == [1, *counts_that_complete_a_piece(500)]


def test_the_end_is_sent_at_once() -> None:
    req = request(SPOKEN)
    assert [is_sent(req) for _ in range(5)] == [True, False, False, False, False]
    req.finished_reason = "stop"
    assert is_sent(req)


def test_outputs_without_pieces_are_sent_as_sglang_decides() -> None:
    for stage in (TEXT_STAGE, Stage(audio=True)):
        req = request(stage)
        assert all(is_sent(req) for _ in range(50))


def test_several_frames_at_once_are_not_held_back_for_another_piece() -> None:
    req = request(SPOKEN)
    req.output_ids = [0] * 39
    assert is_sent(req)
    assert [count for count in range(41, 100) if is_sent(req)] == [
        count for count in counts_that_complete_a_piece(99) if count > 40
    ]


def test_a_shadow_sends_nothing() -> None:
    leader, shadow = request(SPOKEN), request(SPOKEN)
    shadow.speechlm_leader = leader
    (_, due, _, skipped), _ = send_due(None, [leader, shadow], False, shadow)
    assert due == []
    assert skipped is leader
    leader.output_ids.append(0)
    shadow.output_ids.append(0)
    (_, due, _, _), _ = send_due(None, [leader, shadow], False)
    assert due == [leader]
