"""Base64 and data URLs."""

from __future__ import annotations

import base64
import contextlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sglang_speechlm.audio import AudioError, decode_audio, decode_base64, decode_data_url


@given(st.binary(min_size=1))
def test_base64_round_trip(data: bytes) -> None:
    assert decode_base64(base64.b64encode(data).decode()) == data


@given(st.binary(min_size=1, max_size=300), st.sampled_from(["\n", "\r\n", " ", "\t"]), st.integers(1, 80))
def test_base64_may_have_line_breaks_the_url_alphabet_and_no_padding(data: bytes, gap: str, width: int) -> None:
    text = base64.urlsafe_b64encode(data).decode()
    lines = gap.join(text[start : start + width] for start in range(0, len(text), width))
    assert decode_base64(lines) == data
    assert decode_base64(f"{gap}{lines.rstrip('=')}{gap}") == data


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("====", "empty"),
        ("UklGR", "not valid base64"),
        ("UklGRg==UklGRg==", "padding in the middle"),
        ("Ukl.", r"character '\.' at position 3"),
        ("Uklé", "character 'é' at position 3"),
        ("data:audio/wav;base64,UklGRg==", "character ':' at position 4"),
    ],
)
def test_bad_base64_is_refused(text: str, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        decode_base64(text)


@pytest.mark.parametrize(
    ("text", "format"),
    [("UklGRg", ""), ("data:;base64,UklGRg==", ""), (" data:audio/mp3;base64,UklGRg==", "mp3")],
)
def test_audio_is_base64_or_a_data_url(text: str, format: str) -> None:
    assert decode_audio(text) == (b"RIFF", format)


@pytest.mark.parametrize(
    ("url", "format"),
    [
        ("data:audio/wav;base64,UklGRg==", "wav"),
        ("data:audio/FLAC;base64,UklGRg==", "flac"),
        ("DATA:audio/ogg;codecs=opus;BASE64,UklGRg==", "ogg"),
        ("data:;base64,UklGRg==", ""),
        ("data:audio/wav;base64,UklGRg%3D%3d%0A", "wav"),
        ("data: audio/wav ; base64, UklGRg==", "wav"),
    ],
)
def test_data_url_gives_bytes_and_format(url: str, format: str) -> None:
    assert decode_data_url(url) == (b"RIFF", format)


@pytest.mark.parametrize(
    "url", ["", "http://example.com/a.wav", "file:///etc/passwd", "data:audio/wav,RIFF", "data:audio/wav;base64"]
)
def test_other_urls_are_refused(url: str) -> None:
    with pytest.raises(AudioError, match="must have the form"):
        decode_data_url(url)


@pytest.mark.parametrize("unit", ["%", "%41", "%2", ";", "; ", "-", "A\n", "=", " "])
def test_decoding_a_long_text_takes_little_additional_memory(unit: str) -> None:
    for head in ("data:audio/wav;base64,", "data:audio/wav", ""):
        text = head + unit * (4_000_000 // len(unit))
        tracemalloc.start()
        with contextlib.suppress(AudioError):
            decode_audio(text)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 5 * len(text)


@given(st.text())
def test_any_text_gives_bytes_or_an_audio_error(text: str) -> None:
    for decode in (decode_audio, decode_base64, decode_data_url):
        with contextlib.suppress(AudioError):
            decode(text)


def test_refusing_a_long_text_keeps_no_copies() -> None:
    url = "data:audio/wav;base64," + "; " * 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(AudioError, match="not valid base64"):
            decode_data_url(url)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3.3 * len(url)  # 4 including the copy in the frames of the first refusal
