"""Decoding of files of every kind to mono samples at 16 kHz."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import RATE, loudest_hertz, tone

from sglang_speechlm.audio import AudioError, Clip, decode_clip
from sglang_speechlm.audio.av_sound import DEMUXERS
from sglang_speechlm.audio.files import split

STARTS = pytest.mark.process
"""FFmpeg's libraries read these files, in a process of their own."""


def encode(samples: Any, rate: int = RATE, format: str = "WAV", subtype: str | None = None) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, samples, rate, format=format, subtype=subtype)
    return out.getvalue()


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def with_flac_length(data: bytes, frames: int) -> bytes:
    """Set the total frames in STREAMINFO: the low 36 bits of the eight bytes at offset 18."""
    word = int.from_bytes(data[18:26], "big") >> 36 << 36 | frames
    return patched(data, 18, word.to_bytes(8, "big"))


@pytest.mark.parametrize(
    ("format", "subtype"),
    [
        ("WAV", "PCM_16"),
        ("WAV", "PCM_U8"),
        ("WAV", "PCM_24"),
        ("WAV", "FLOAT"),
        ("WAV", "ULAW"),
        ("WAV", "MS_ADPCM"),
        ("FLAC", "PCM_16"),
        ("OGG", "VORBIS"),
        ("OGG", "OPUS"),
        ("MP3", "MPEG_LAYER_III"),
        ("AIFF", "PCM_16"),
        pytest.param("CAF", "ALAC_16", marks=STARTS),
        ("AU", "PCM_16"),
        ("RF64", "PCM_16"),
        ("W64", "PCM_16"),
    ],
)
def test_format_is_read_by_its_content(format: str, subtype: str) -> None:
    clip = decode_clip(encode(tone(1), format=format, subtype=subtype), format="whatever")
    assert clip.samples.dtype == np.float32
    assert clip.samples.ndim == 1
    # ADPCM pads its last block.
    assert RATE <= len(clip.samples) <= RATE + 2048
    assert loudest_hertz(clip) == pytest.approx(440, abs=2)
    assert clip.samples.std() == pytest.approx(0.5 / np.sqrt(2), abs=0.02)
    assert clip.warnings == ()


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 24000, 32000, 44100, 48000, 96000, 12347])
def test_rate_is_converted_and_the_pitch_kept(rate: int) -> None:
    clip = decode_clip(encode(tone(1, rate, 1000.0), rate))
    assert len(clip.samples) == RATE
    assert clip.seconds == 1
    assert loudest_hertz(clip) == pytest.approx(1000, abs=1)
    middle = slice(RATE // 4, 3 * RATE // 4)
    np.testing.assert_allclose(clip.samples[middle], tone(1, RATE, 1000.0)[middle], atol=2e-3)


def test_a_tone_above_the_new_band_is_removed_without_aliasing() -> None:
    clip = decode_clip(encode(tone(1, 48000, 11_000.0), 48000))
    assert np.abs(clip.samples[1000:-1000]).max() < 1e-3


def test_mono_at_the_models_rate_is_untouched() -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 12_345).astype(np.float32)
    np.testing.assert_array_equal(decode_clip(encode(samples, subtype="FLOAT")).samples, samples)


@pytest.mark.parametrize("channels", [2, 6, 64])
def test_channels_are_averaged(channels: int) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, (5000, channels)).astype(np.float32)
    clip = decode_clip(encode(samples, subtype="FLOAT"))
    np.testing.assert_allclose(clip.samples, samples.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize("name", ["pcm", "pcm16", "PCM16"])
def test_samples_without_a_header_have_openais_rate(name: str) -> None:
    samples = (tone(1, 24_000) * 32767).astype("<i2").tobytes()
    clip = decode_clip(samples, format=name)
    assert len(clip.samples) == RATE
    assert loudest_hertz(clip) == pytest.approx(440, abs=1)
    assert clip.warnings == ()


def test_half_a_sample_at_the_end_gives_a_warning() -> None:
    clip = decode_clip(bytes(4801), format="pcm16")
    assert clip.seconds == 0.1
    assert clip.warnings == ("the last byte is half a sample and was ignored",)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "AIFF"])
def test_a_file_declared_as_pcm16_is_read_by_its_content(format: str) -> None:
    assert decode_clip(encode(tone(1), format=format), format="pcm16").seconds == 1


@pytest.mark.parametrize(("rate", "format"), [(16000, "WAV"), (44100, "WAV"), (48000, "FLAC"), (16000, "MP3")])
def test_long_clip_is_cut_with_a_warning(rate: int, format: str) -> None:
    clip = decode_clip(encode(tone(41.2, rate), rate, format))
    assert len(clip.samples) == 30 * RATE
    assert clip.warnings == ("audio clip of 41.2 s was cut to 30 s",)
    # The sound is cut off, not faded out.
    np.testing.assert_allclose(clip.samples[-100:], tone(30)[-100:], atol=0.02)


def test_long_pcm16_is_cut_with_a_warning() -> None:
    clip = decode_clip(bytes(2 * 24_000 * 31), format="pcm16")
    assert len(clip.samples) == 30 * RATE
    assert clip.warnings == ("audio clip of 31.0 s was cut to 30 s",)


@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_clip_of_exactly_the_maximum_length_is_not_cut(rate: int) -> None:
    clip = decode_clip(encode(tone(30, rate), rate))
    assert len(clip.samples) == 30 * RATE
    assert clip.warnings == ()


def test_one_sample_too_many_is_cut() -> None:
    assert decode_clip(encode(np.zeros(30 * RATE + 1))).warnings


def test_flac_without_a_stated_length_is_read() -> None:
    clip = decode_clip(with_flac_length(encode(tone(2), format="FLAC"), 0))
    assert len(clip.samples) == 2 * RATE


def test_the_warning_mentions_an_unstated_length() -> None:
    clip = decode_clip(with_flac_length(encode(tone(31), format="FLAC"), 0))
    assert clip.warnings == ("audio clip of more than 30 s was cut to 30 s",)


def test_wav_with_an_unknown_length_is_read() -> None:
    data = patched(encode(tone(2)), 40, b"\xff\xff\xff\xff")
    assert len(decode_clip(data).samples) == 2 * RATE


def test_mp3_of_variable_bit_rate_without_a_xing_header_is_read_to_its_end() -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 10 * RATE) * (np.arange(10 * RATE) > 5 * RATE)
    data = encode(noise[::-1], format="MP3")
    assert b"Xing" in data[:100]
    bare = data[data.index(data[:2], 4) :]
    with soundfile.SoundFile(io.BytesIO(bare)) as sound:
        assert sound.frames < 8 * RATE, "this test needs a file for which libsndfile's estimate is too short"
    clip = decode_clip(bare)
    assert abs(clip.seconds - 10) < 0.2


def test_a_gigantic_stated_length_allocates_nothing() -> None:
    data = with_flac_length(encode(tone(1), format="FLAC"), 2**36 - 1)
    tracemalloc.start()
    clip = decode_clip(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(clip.samples) == RATE
    assert peak < 16e6


def test_long_file_is_decoded_only_as_far_as_it_is_kept() -> None:
    data = encode(np.zeros((100 * RATE, 8), np.int16), format="FLAC")
    tracemalloc.start()
    clip = decode_clip(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert clip.warnings == ("audio clip of 100.0 s was cut to 30 s",)
    assert peak < 16e6, "all samples of the eight channels are 51 MB"


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_absurd_rate_is_refused(rate: int) -> None:
    with pytest.raises(AudioError, match=f"sample rate {rate} Hz is out of range"):
        decode_clip(patched(encode(tone(0.1)), 24, struct.pack("<I", rate)))


@pytest.mark.parametrize("rate", [0, 2**32 - 1])
def test_rate_that_libsndfile_refuses_is_refused(rate: int) -> None:
    with pytest.raises(AudioError, match="could not be read"):
        decode_clip(patched(encode(tone(0.1)), 24, struct.pack("<I", rate)))


def test_many_channels_at_a_high_rate_are_refused_for_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sglang_speechlm.audio.clip.MAX_VALUES", 1 << 22)
    # Less than a second of eight silent channels is five million values in a few kilobytes.
    data = encode(np.zeros((600_000, 8), np.int16), 655_350, format="FLAC")
    with pytest.raises(AudioError, match="8 channels at 655350 Hz has too many values"):
        decode_clip(data)


@pytest.mark.parametrize("position", [0, 9_999])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_numbers_are_refused(value: float, position: int) -> None:
    samples = tone(1)[:10_000]
    samples[position] = value
    with pytest.raises(AudioError, match="NaN or infinite"):
        decode_clip(encode(samples, subtype="FLOAT"))


def test_absurdly_large_samples_are_refused() -> None:
    with pytest.raises(AudioError, match=r"a sample of 3e\+38"):
        decode_clip(encode(np.array([0.0, 3e38]), subtype="FLOAT"))


@pytest.mark.parametrize(
    ("data", "format", "message"),
    [
        (b"", "wav", "empty"),
        (b"R", "wav", r"declared as 'wav'\) could not be read"),
        (b"this is text, not sound", None, "audio data could not be read"),
        (bytes(1000), None, "could not be read"),
        (b"a", "pcm16", "has no samples; the last byte is half a sample"),
        (encode(np.zeros(0)), "wav", "has no samples"),
        (encode(np.zeros(1), 96_000), "wav", "has no samples"),
        (encode(tone(1), format="FLAC")[:500], "flac", "damaged or cut off before its first sample"),
        (encode(tone(1), format="FLAC")[:20], "flac", "could not be read: it begins as FLAC, and is damaged, cut off"),
        pytest.param(b"\x1a\x45\xdf\xa3" + bytes(100), "webm", "begins as WebM or Matroska", marks=STARTS),
        pytest.param(
            b"ID3\x04\0\0\0\0\0\x0a" + bytes(10) + b"\xff\xf1\x50\x80" + bytes(99), None, "begins as AAC", marks=STARTS
        ),
        (b"OggS" + bytes(22) + b"\1\x50Speex   " + bytes(99), None, "Speex in Ogg is not supported"),
        (b"RIFF\x24\0\0\0AVI LIST" + bytes(99), None, "AVI is not supported"),
    ],
)
def test_unusable_data_is_refused(data: bytes, format: str | None, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        decode_clip(data, format=format)


def test_a_header_that_points_before_the_file_leaves_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    tracebacks: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", tracebacks.append)
    with pytest.raises(AudioError, match="could not be read"):
        decode_clip(encode(tone(0.1), format="AIFF").replace(b"SSND", b"\x80SND"))
    assert not tracebacks


def test_midi_sample_dump_of_a_few_bytes_is_not_read_for_thirty_seconds(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AudioError, match="MIDI sample dumps"):
        decode_clip(encode(tone(0.1), format="SDS")[:29])
    assert len(capfd.readouterr().out) < 1000


@STARTS
@settings(max_examples=200)
@given(st.binary(max_size=300), st.sampled_from([None, "wav", "pcm16"]))
def test_any_bytes_give_a_clip_or_an_audio_error(data: bytes, format: str | None) -> None:
    check_clip_or_error(data, format)


# Files that contradict their headers


WAV_2S = encode(tone(2))
CLEAN = [
    ("WAV", "PCM_16"), ("WAV", "PCM_U8"), ("WAV", "PCM_24"), ("WAV", "ULAW"), ("FLAC", None), ("OGG", "VORBIS"),
    ("OGG", "OPUS"), ("MP3", None), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("W64", "PCM_16"), ("RF64", "PCM_16"),
    ("CAF", "PCM_16"), pytest.param("CAF", "ALAC_16", marks=STARTS),
]  # fmt: skip


def with_sizes(data: bytes, riff: int, sound: int) -> bytes:
    return patched(patched(data, 4, struct.pack("<I", riff)), 40, struct.pack("<I", sound))


def pitches(clip: Clip, *, seconds: float) -> list[int]:
    """The loudest frequency of each section of ``seconds``, rounded to 10 Hz."""
    length = round(seconds * RATE)
    starts = range(0, len(clip.samples) - length // 2, length)
    return [round(loudest_hertz(Clip(clip.samples[start : start + length], RATE)) / 10) * 10 for start in starts]


@pytest.mark.parametrize(("format", "subtype"), CLEAN)
def test_joined_files_are_heard_one_after_the_other(format: str, subtype: str | None) -> None:
    first, second = (encode(tone(2, hertz=hertz), format=format, subtype=subtype) for hertz in (440, 880))
    clip = decode_clip(first + second + first)
    assert clip.seconds == pytest.approx(6, abs=0.3)
    assert pitches(clip, seconds=2) == [440, 880, 440]
    assert clip.warnings == ()


def test_big_endian_wav_files_may_be_joined_and_truncated() -> None:
    first, second = io.BytesIO(), io.BytesIO()
    for out, hertz in ((first, 440), (second, 880)):
        soundfile.write(out, tone(1, hertz=hertz), RATE, format="WAV", subtype="PCM_16", endian="BIG")
    clip = decode_clip(first.getvalue() + second.getvalue())
    assert pitches(clip, seconds=1) == [440, 880]
    assert clip.warnings == ()
    (warning,) = decode_clip(first.getvalue()[:16_000]).warnings
    assert "cut off after 0.50 s" in warning


@pytest.mark.parametrize(("format", "subtype"), CLEAN)
def test_a_file_may_be_truncated_anywhere_in_its_headers(format: str, subtype: str | None) -> None:
    file = encode(tone(0.05), format=format, subtype=subtype)
    for length in range(1, min(len(file), 200)):
        (part,) = split(file[:length])
        # FFmpeg's libraries need a process for each.
        if part.kind not in DEMUXERS or length % 16 == 0:
            with contextlib.suppress(AudioError):
                decode_clip(file[:length])


def test_joined_files_may_differ_in_rate_and_kind() -> None:
    files = encode(tone(1, 8000), 8000) + encode(tone(1, 44_100, 880.0), 44_100) + encode(tone(1), format="FLAC")
    clip = decode_clip(files)
    assert pitches(clip, seconds=1) == [440, 880, 440]
    assert clip.warnings == ()


def test_joined_files_are_cut_at_the_maximum_length() -> None:
    clip = decode_clip(encode(tone(12)) * 4)
    assert clip.seconds == 30
    assert clip.warnings == ("audio clip of more than 30 s was cut to 30 s",)


def test_an_unreadable_file_after_another_gives_a_warning() -> None:
    clip = decode_clip(WAV_2S + encode(np.array([np.nan] * 800), subtype="FLOAT"))
    assert clip.seconds == 2
    assert clip.warnings == (
        "the joined files after file 1 were not heard: audio clip contains NaN or infinite samples",
    )


@pytest.mark.parametrize("rate", [16_000, 44_100, 8_000])
@pytest.mark.parametrize("lost", [1, 700])
def test_an_mp3_stream_may_begin_within_a_frame(rate: int, lost: int) -> None:
    clip = decode_clip(encode(tone(2, rate), rate, format="MP3")[lost:])
    assert loudest_hertz(clip) == pytest.approx(440, abs=2)
    assert 1.5 < clip.seconds < 2.2


def test_bytes_before_the_first_mp3_frame_get_a_warning_unless_they_are_padding() -> None:
    mp3 = encode(tone(2), format="MP3")
    assert decode_clip(bytes(500) + mp3).warnings == decode_clip(b"\r\n" + mp3).warnings == ()
    (warning,) = decode_clip(b"HTTP/1.1 200 OK\r\nicy-name: " + 100 * b"x" + mp3).warnings
    assert warning == "127 bytes before the first whole frame of the sound were ignored"


def test_the_number_of_joined_files_is_limited() -> None:
    clip = decode_clip(encode(tone(0.001)) * 100_000)
    assert clip.seconds == pytest.approx(0.1)
    assert clip.warnings == ("the joined files after file 100 were not heard: the limit is 100 files",)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF, 0x7FFFFFFF, 0x7FFFF000, 0xFFFFFFDB])
def test_wav_with_placeholder_sizes_is_read_to_its_end(size: int) -> None:
    clip = decode_clip(with_sizes(WAV_2S, size, size))
    assert clip.seconds == 2
    assert clip.warnings == ()


@pytest.mark.parametrize("riff", [32_036, len(WAV_2S) - 8])
def test_wav_that_states_too_few_samples_is_read_to_its_end_with_a_warning(riff: int) -> None:
    clip = decode_clip(with_sizes(WAV_2S, riff, 32_000))
    assert clip.seconds == 2
    assert clip.warnings == ("the WAV header states 32000 bytes of samples, but 64000 follow: all were heard",)


def test_a_second_chunk_of_samples_is_heard_with_a_warning() -> None:
    for between in (b"", CHUNKS):
        data = WAV_2S + between + b"data" + struct.pack("<I", 32_000) + WAV_2S[-32_000:]
        clip = decode_clip(with_sizes(data, len(data) - 8, 64_000))
        assert clip.seconds == pytest.approx(3, abs=0.02)
        (warning,) = clip.warnings
        assert warning.startswith("the WAV header states 64000 bytes of samples, but ")


@pytest.mark.parametrize(("format", "subtype"), CLEAN)
def test_a_truncated_file_is_heard_up_to_the_cut_with_a_warning(format: str, subtype: str | None) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE)
    data = encode(noise, format=format, subtype=subtype)
    clip = decode_clip(data[: len(data) * 3 // 4])
    assert 1.5 < clip.seconds < 3.2
    (warning,) = clip.warnings
    assert "damaged or cut off after" in warning


def test_a_file_damaged_in_the_middle_is_heard_up_to_the_damage() -> None:
    data = encode(np.random.default_rng(0).uniform(-0.5, 0.5, 4 * RATE), format="FLAC")
    clip = decode_clip(patched(data, len(data) // 2, bytes(4000)))
    assert 1.5 < clip.seconds < 2.2
    assert "damaged or cut off after" in clip.warnings[0]


def test_damage_beyond_the_maximum_length_is_ignored() -> None:
    data = encode(tone(40))
    clip = decode_clip(data[:-3000])
    assert clip.warnings == ("audio clip of 39.9 s was cut to 30 s",)


ID3V1 = b"TAG" + b"Title".ljust(125, b"\0")
APE_ITEM = struct.pack("<II", 5, 0) + b"Title\0" + b"Hello"
APE = APE_ITEM + b"APETAGEX" + struct.pack("<IIII8x", 2000, len(APE_ITEM) + 32, 1, 0)
ID3V2 = b"ID3\x04\0\0\0\0\0\x15TIT2\0\0\0\x0b\0\0\x03A title..."
CHUNKS = b"LIST\x1a\0\0\0INFOISFT\x0e\0\0\0Lavf60.16.100\0" + b"id3 \x0b\0\0\0hello world\0"


@pytest.mark.parametrize(
    "tags", [ID3V1, APE, APE + ID3V1, b"\r\n", bytes(40)], ids=["id3v1", "ape", "both", "line", "zeros"]
)
@pytest.mark.parametrize(("format", "subtype"), CLEAN)
def test_tags_and_line_ends_after_a_file_are_ignored(format: str, subtype: str | None, tags: bytes) -> None:
    data = encode(tone(2), format=format, subtype=subtype)
    clip, tagged = decode_clip(data), decode_clip(data + tags)
    np.testing.assert_array_equal(tagged.samples, clip.samples)
    assert tagged.warnings == ()


@pytest.mark.parametrize(("format", "subtype"), [("MP3", None), ("FLAC", None), ("WAV", "PCM_16"), ("AIFF", "PCM_16")])
def test_tags_before_a_file_are_ignored(format: str, subtype: str | None) -> None:
    data = encode(tone(2), format=format, subtype=subtype)
    clip = decode_clip(ID3V2 + data)
    np.testing.assert_array_equal(clip.samples, decode_clip(data).samples)
    assert clip.warnings == ()


def test_chunks_after_the_samples_are_ignored() -> None:
    clip = decode_clip(patched(WAV_2S + CHUNKS, 4, struct.pack("<I", len(WAV_2S + CHUNKS) - 8)))
    assert clip.seconds == 2
    assert clip.warnings == ()
    assert decode_clip(encode(tone(0)) + CHUNKS + WAV_2S).seconds == 2


@pytest.mark.parametrize("format", ["FLAC", "OGG", "MP3", "AIFF", "AU"])
def test_bytes_that_are_not_sound_give_a_warning(format: str) -> None:
    data = encode(tone(2), format=format)
    clip = decode_clip(data + b"This is something else. " * 5000)
    assert clip.seconds == 2
    (warning,) = clip.warnings
    assert "bytes after the end of the sound were ignored" in warning


# Channels and scales


def test_channels_that_cancel_each_other_out_are_not_mixed() -> None:
    left = tone(2)
    clip = decode_clip(encode(np.stack([left, -left * 0.98], axis=1), subtype="FLOAT"))
    np.testing.assert_array_equal(clip.samples, left)
    assert clip.warnings == ("the channels cancel each other out: only channel 1 was heard",)


def test_a_single_channel_among_silent_ones_is_mixed_as_usual() -> None:
    channels = np.zeros((RATE, 6), np.float32)
    channels[:, 2] = tone(1)
    clip = decode_clip(encode(channels, subtype="FLOAT"))
    np.testing.assert_allclose(clip.samples, tone(1) / 6, atol=1e-6)
    assert clip.warnings == ()


@pytest.mark.parametrize("bits", [16, 24, 32])
def test_floating_point_samples_with_the_values_of_integers_are_scaled(bits: int) -> None:
    scale = np.float32(2 ** (bits - 1))
    clip = decode_clip(encode(tone(1) * scale, subtype="FLOAT"))
    np.testing.assert_allclose(clip.samples, tone(1), atol=1e-6)
    (warning,) = clip.warnings
    assert f"read as {bits}-bit integers" in warning


def test_floating_point_samples_slightly_above_full_scale_are_unchanged() -> None:
    clip = decode_clip(encode(tone(1) * 4, subtype="FLOAT"))
    np.testing.assert_array_equal(clip.samples, tone(1) * 4)
    assert clip.warnings == ()


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "PCM_32", "ALAW", "ULAW", "DOUBLE", "IMA_ADPCM", "GSM610"])
def test_every_encoding_of_wav_is_read(subtype: str) -> None:
    clip = decode_clip(encode(tone(1), subtype=subtype))
    assert loudest_hertz(clip) == pytest.approx(440, abs=2)
    assert clip.samples.std() == pytest.approx(0.5 / np.sqrt(2), abs=0.02)
    assert clip.warnings == ()


SEEDS = [
    encode(tone(0.2), format=format, subtype=subtype)
    for format, subtype in [
        ("WAV", "PCM_16"),
        ("WAV", "FLOAT"),
        ("FLAC", None),
        ("OGG", "VORBIS"),
        ("MP3", None),
        ("AIFF", None),
        ("CAF", "ALAC_16"),
        ("AU", None),
        ("W64", None),
        ("RF64", None),
        ("OGG", "OPUS"),
        ("WAV", "MS_ADPCM"),
        ("WAV", "GSM610"),
    ]
]
SEEDS += [SEEDS[0] + SEEDS[2], SEEDS[3] * 2, SEEDS[4] + SEEDS[4] + ID3V1]


@STARTS
@settings(max_examples=200)
@given(
    st.sampled_from(SEEDS),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=8),
    st.integers(0, 4000),
)
def test_damaged_files_give_a_clip_or_an_audio_error(seed: bytes, edits: list[tuple[int, int]], length: int) -> None:
    data = bytearray(seed[: len(seed) - length] if length < 2000 else seed)
    for at, value in edits:
        if at < len(data):
            data[at] = value
    check_clip_or_error(bytes(data), None)


def check_clip_or_error(data: bytes, format: str | None) -> None:
    try:
        clip = decode_clip(data, format=format)
    except AudioError:
        return
    assert 1 <= len(clip.samples) <= 30 * RATE
    assert np.isfinite(clip.samples).all()
