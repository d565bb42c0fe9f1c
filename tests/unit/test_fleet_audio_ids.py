"""The workers that a chat request refers to by the audio ids of earlier answers."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speechlm.fleet import front

PIECES = [
    b'"audio-0123abcd-chatcmpl-x"',
    b'\\"audio-0123abcd-chatcmpl-x',
    b'"audio-ffffffff-chatcmpl-',
    b'"audio-',
    b"x",
    b" " * 9,
]


@pytest.fixture(autouse=True, scope="module")
def small_searches() -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(front, "_SEARCHED_BYTES", 7)
        yield


@given(st.lists(st.sampled_from(PIECES)).map(lambda pieces: b"{" + b"".join(pieces)))
def test_ids_are_found_wherever_a_search_ends_and_not_within_a_text(body: bytes) -> None:
    expected = re.findall(rb'(?<!\\)"audio-([0-9a-f]{8})-chatcmpl-', body)
    assert list(front._workers_named(bytearray(body))) == [name.decode() for name in expected]
