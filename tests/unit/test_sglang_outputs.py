"""Frames leave the scheduler when they complete a piece of sound, not at every step."""

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


def sent(req: Any) -> bool:
    """Whether a request's output is sent after a step in which it got an id."""
    req.output_ids.append(0)
    (_, due, _, _), _ = send_due(None, [req], False)
    return due == [req]


def completing(frames: int) -> list[int]:
    """The numbers of frames at which the codec process can decode a piece more, as it sees it."""
    planner = WindowPlanner(CONTEXT, POLICY)
    counts = []
    for count in range(1, frames + 1):
        planner.push(count > DELAY)
        if (window := planner.peek()) is not None:
            planner.advance(window)
            counts.append(count)
    return counts


def test_after_the_first_frame_an_output_is_sent_exactly_when_it_completes_a_piece() -> None:
    req = request(SPOKEN)
    assert [count for count in range(1, 501) if sent(req)] == [1, *completing(500)]


def test_the_end_is_sent_at_once() -> None:
    req = request(SPOKEN)
    assert [sent(req) for _ in range(5)] == [True, False, False, False, False]
    req.finished_reason = "stop"
    assert sent(req)


def test_what_has_no_pieces_is_sent_as_sglang_decides() -> None:
    for stage in (TEXT_STAGE, Stage(audio=True)):
        req = request(stage)
        assert all(sent(req) for _ in range(50))


def test_frames_that_come_several_at_a_time_are_not_held_back_for_a_piece_more() -> None:
    req = request(SPOKEN)
    req.output_ids = [0] * 39
    assert sent(req)
    assert [count for count in range(41, 100) if sent(req)] == [count for count in completing(99) if count > 40]


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
