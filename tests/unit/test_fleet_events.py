"""Events pass through the front unchanged and complete, and a finished stream can be told from a broken one."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speechlm.fleet.events import EventRelay
from sglang_speechlm.fleet.metrics import merge

DELTA = b'data: {"choices":[{"delta":{"content":"one } two"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
STREAM = DELTA * 3 + b": a comment\n\n" + DELTA + DONE
ROUTER_ERROR = b'data: {"error":{"message":"Stream error: unexpected EOF","type":"stream_error"}}\n\ndata: [DONE]\n\n'


def relayed(pieces: list[bytes]) -> tuple[bytes, EventRelay]:
    relay = EventRelay()
    return b"".join(relay.take(piece) for piece in pieces), relay


@given(st.lists(st.integers(0, len(STREAM))))
def test_a_stream_passes_unchanged_however_it_is_cut(places: list[int]) -> None:
    bounds = [0, *sorted(places), len(STREAM)]
    output, relay = relayed([STREAM[a:b] for a, b in itertools.pairwise(bounds)])
    assert output + relay.rest() == STREAM
    assert relay.is_complete


def test_an_event_is_passed_on_as_soon_as_it_is_complete() -> None:
    relay = EventRelay()
    assert relay.take(DELTA[:20]) == b""
    assert relay.take(DELTA[20:] + DELTA[:5]) == DELTA


@given(st.integers(0, len(DELTA) - 1))
def test_an_incomplete_event_before_an_error_of_the_router_is_dropped(cut: int) -> None:
    half = DELTA[:cut]
    output, relay = relayed([DELTA, half, (b"\n\n" if half else b"") + ROUTER_ERROR])
    assert output + relay.rest() == DELTA + (DELTA if half.rstrip() == DELTA.rstrip() else b"")
    assert not relay.is_complete


@given(st.integers(0, len(DELTA)))
def test_a_stream_without_a_last_event_is_not_complete(cut: int) -> None:
    output, relay = relayed([DELTA, DELTA[:cut]])
    assert output + relay.rest() in (DELTA, DELTA * 2)
    assert not relay.is_complete


@pytest.mark.parametrize(
    "last",
    [
        DONE,
        b'data: {"type":"speech.audio.done","usage":{}}\n\n',
        b'data: {"type":"transcript.text.done","text":""}\n\n',
        b'data: {"error":{"message":"too late"}}\n\n',
    ],
)
def test_every_kind_of_stream_is_complete_with_its_last_event(last: bytes) -> None:
    assert relayed([DELTA, last])[1].is_complete


def test_an_unknown_event_of_a_worker_passes() -> None:
    assert relayed([b"data: not JSON\n\n", DELTA])[0] == b"data: not JSON\n\n" + DELTA


ROUTER_PAGE = "# HELP smg_up x\n# TYPE smg_up gauge\nsmg_up 1\n"
PAGE = (
    "# HELP speechlm_seconds x\n# TYPE speechlm_seconds histogram\n"
    'speechlm_seconds_bucket{le="1.0"} 2.0\nspeechlm_seconds_count 2.0\n'
    "# HELP speechlm_running x\n# TYPE speechlm_running gauge\nspeechlm_running 3.0\n"
)


def test_merged_metrics_have_every_family_once_with_all_workers() -> None:
    page = merge(ROUTER_PAGE, {"http://a:1": PAGE, "http://b:2": PAGE})
    assert page == (
        "# HELP smg_up x\n# TYPE smg_up gauge\nsmg_up 1\n"
        "# HELP speechlm_seconds x\n# TYPE speechlm_seconds histogram\n"
        'speechlm_seconds_bucket{worker="http://a:1",le="1.0"} 2.0\nspeechlm_seconds_count{worker="http://a:1"} 2.0\n'
        'speechlm_seconds_bucket{worker="http://b:2",le="1.0"} 2.0\nspeechlm_seconds_count{worker="http://b:2"} 2.0\n'
        "# HELP speechlm_running x\n# TYPE speechlm_running gauge\n"
        'speechlm_running{worker="http://a:1"} 3.0\nspeechlm_running{worker="http://b:2"} 3.0\n'
    )
