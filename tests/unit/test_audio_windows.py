"""Windows of recordings: no speech is lost or heard twice, and little is kept in memory."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sounds import RATE, tone

from sglang_speechlm.audio.windows import Window, cut, cut_stepwise


def silence(seconds: float) -> Any:
    return np.zeros(round(seconds * RATE), np.float32)


def in_pieces(recording: Any, seconds: float = 7.3) -> Iterator[Any]:
    length = round(seconds * RATE)
    return (recording[start : start + length] for start in range(0, len(recording), length))


def windows_of(recording: Any, longest: float = 30, pause: float | None = None) -> list[Window]:
    return list(cut(in_pieces(recording), RATE, longest, pause))


def placed(windows: list[Window], length: int) -> Any:
    """The recording put together from its windows, which must not overlap; samples in no window are 0."""
    found, counts = np.zeros(length, np.float32), np.zeros(length, int)
    for window in windows:
        start, end = round(window.start * RATE), round(window.end * RATE)
        found[start:end] += window.samples[: end - start]
        counts[start:end] += 1
    assert counts.max() <= 1
    return found


@pytest.mark.parametrize("seconds", [0.01, 3.0, 30.0])
def test_a_recording_of_one_window_is_unchanged(seconds: float) -> None:
    recording = tone(seconds)
    (window,) = windows_of(recording)
    np.testing.assert_array_equal(window.samples, recording)
    assert window.start == 0
    assert window.end == pytest.approx(seconds)


@pytest.mark.parametrize("seconds", [30.01, 31.0, 44.0, 95.0])
def test_sound_without_a_pause_is_cut_without_loss(seconds: float) -> None:
    recording = tone(seconds) + tone(seconds, hertz=3.0)
    windows = windows_of(recording)
    assert all(5 <= window.end - window.start <= 30 for window in windows)
    np.testing.assert_array_equal(placed(windows, len(recording)), recording)


def test_a_window_is_cut_in_the_middle_of_a_short_pause_in_its_second_half() -> None:
    recording = np.concatenate([tone(20), silence(0.6), tone(20)])
    first, second = windows_of(recording)
    assert first.end == pytest.approx(20.3, abs=0.03)
    assert second.start == pytest.approx(20.4, abs=0.03)


def test_a_window_is_cut_where_there_is_only_noise() -> None:
    noise = np.random.default_rng(1).normal(0, 0.02, 45 * RATE).astype(np.float32)
    speech = np.concatenate([tone(24), silence(0.8), tone(45 - 24.8)])
    first, _ = windows_of(noise + speech)
    assert 24.1 < first.end < 24.7


def test_long_silence_is_in_no_window() -> None:
    recording = np.concatenate([silence(40), tone(5), silence(70), tone(3), silence(2.5), tone(4), silence(90)])
    windows = windows_of(recording)
    spans = [(window.start, window.end) for window in windows]
    assert spans == [pytest.approx(span, abs=0.03) for span in [(39.8, 45.2), (114.8, 118.2), (120.3, 124.7)]]
    np.testing.assert_array_equal(placed(windows, len(recording)), recording)


def test_silence_alone_has_no_window() -> None:
    assert windows_of(silence(100)) == []
    assert windows_of(silence(0)) == []
    assert windows_of(silence(3), longest=5, pause=0.35) == []


def test_pauses_end_windows_if_the_model_needs_it() -> None:
    recording = np.concatenate([silence(0.5), tone(1), silence(0.5), tone(0.7), silence(0.2), tone(1), silence(1)])
    windows = windows_of(recording, longest=5, pause=0.35)
    spans = [(window.start, window.end) for window in windows]
    assert spans == [pytest.approx(span, abs=0.03) for span in [(0.3, 1.7), (1.8, 4.1)]]


def test_a_pause_may_contain_noise() -> None:
    speech = np.concatenate([tone(1), silence(0.5), tone(1), silence(0.5), tone(1)])
    noise = np.random.default_rng(1).normal(0, 1e-3, len(speech)).astype(np.float32)
    assert len(windows_of(speech + noise, longest=5, pause=0.35)) == 3


def test_a_short_window_is_padded_and_keeps_its_times() -> None:
    first, second = windows_of(np.concatenate([tone(1), silence(1), tone(0.05)]), longest=5, pause=0.35)
    assert second.end - second.start < 0.5
    assert len(second.samples) == RATE // 2
    assert len(first.samples) > RATE


@given(
    st.lists(st.tuples(st.floats(0.03, 6), st.floats(0.02, 4), st.floats(0.01, 0.9)), min_size=1, max_size=8),
    st.sampled_from([(30.0, None), (4.0, None), (4.0, 0.35), (2.0, 0.35)]),
    st.floats(0.1, 9),
)
def test_everything_louder_than_silence_is_in_exactly_one_window(
    parts: list[tuple[float, float, float]], rule: tuple[float, float | None], piece: float
) -> None:
    recording = np.concatenate(
        [part for speech, pause, level in parts for part in (tone(speech, level=level), silence(pause))]
    )
    windows = list(cut(in_pieces(recording, piece), RATE, *rule))
    assert all(len(window.samples) <= rule[0] * RATE for window in windows)
    assert [window.start for window in windows] == sorted(window.start for window in windows)
    np.testing.assert_array_equal(placed(windows, len(recording)), recording)


def test_two_hours_never_hold_more_than_a_few_windows() -> None:
    taken, rate = 0, 1000

    def pieces() -> Iterator[Any]:
        nonlocal taken
        part = np.concatenate([np.full(25 * rate, 0.3, np.float32), np.zeros(5 * rate, np.float32)])
        for _ in range(240):
            taken += 1
            yield part

    for number, window in enumerate(cut(pieces(), rate, 30)):
        assert taken * 30 - window.end < 60
        assert window.start == pytest.approx(max(0, 30 * number - 0.2), abs=0.05)


@pytest.mark.parametrize("pause", [None, 0.5])
def test_silence_is_skipped_in_steps_of_a_piece(pause: float | None) -> None:
    read = 0

    def pieces() -> Iterator[Any]:
        nonlocal read
        while read < 20:
            read += 1
            yield silence(30)

    steps = 0
    for steps, window in enumerate(cut_stepwise(pieces(), RATE, 30, pause), 1):
        assert window is None
        assert read <= steps
    assert steps == read == 20
