"""Formats that browsers and phones record."""

import contextlib
import io
import itertools
import os
import sys
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import FORMATS, recorded_file
from sounds import RATE, loudest_hertz, tone

from sglang_speechlm.audio import AudioError, Clip, Recording, decode_clip
from sglang_speechlm.audio.av_sound import DEMUXERS, AvSound
from sglang_speechlm.audio.files import split
from sglang_speechlm.audio.kinds import kind_of

pytestmark = pytest.mark.process
"""FFmpeg's libraries read files in a process of their own."""

MAGIC = {
    "mp4": b"\0\0\0\x20ftypM4A \0\0\0\0M4A mp42isom\0\0\0\0",
    "webm": b"\x1a\x45\xdf\xa3",
    "aac": b"\xff\xf1\x50\x80\x1f\xfc",
    "amr": b"#!AMR\n",
    "caf": b"caff\0\1\0\0desc" + bytes(16) + b"opus",
    "ogg flac": b"OggS\0\2" + bytes(20) + b"\1\x33\x7fFLAC",
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_is_read_by_its_content(name: str) -> None:
    clip = decode_clip(recorded_file(name, tone(2)), format="wav")
    assert clip.seconds == pytest.approx(2, abs=0.15)
    assert loudest_hertz(clip) == pytest.approx(440, abs=2)
    assert clip.samples.std() == pytest.approx(0.5 / np.sqrt(2), abs=0.03)
    assert clip.warnings == ()


@pytest.mark.parametrize("name", FORMATS)
def test_joined_files_are_heard_one_after_the_other(name: str) -> None:
    file, wav = recorded_file(name, tone(1)), io.BytesIO()
    soundfile.write(wav, tone(1), RATE, format="WAV")
    clip = decode_clip(wav.getvalue() + file + file + wav.getvalue())
    assert clip.seconds == pytest.approx(4, abs=0.3)
    assert clip.warnings == ()


@pytest.mark.parametrize("start", [b"\0\0\0\x02ftypM4A ", b"\xff\xf1\0\0\0\0\0\0", b"\x1a\x45\xdf\xa3", b"#!AMR\n"])
def test_a_file_with_a_bad_header_is_one_file(start: bytes) -> None:
    assert [file.data for file in itertools.islice(split(start + bytes(500)), 3)] == [start + bytes(500)]


def test_ignored_bytes_after_a_file_give_a_warning() -> None:
    (warning,) = decode_clip(recorded_file("m4a", tone(1)) + bytes(1000)).warnings
    assert warning == "1000 bytes after the end of the sound were ignored: they are not an audio file"


def test_joined_files_that_each_need_a_process_are_limited() -> None:
    (warning,) = decode_clip(recorded_file("aac", tone(0.1)) + 20 * recorded_file("m4a", tone(0.1))).warnings
    assert warning.startswith("the joined files after file 10 were not heard: the limit is 10 files")


def test_amr_is_read() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (100, 31), np.uint8)
    clip = decode_clip(b"#!AMR\n" + b"".join(b"\x3c" + frame.tobytes() for frame in frames))
    assert clip.seconds == pytest.approx(2)


def test_a_video_gives_its_sound() -> None:
    clip = decode_clip(recorded_file("mp4", tone(2), film=True))
    assert loudest_hertz(clip) == pytest.approx(440, abs=2)
    assert clip.warnings == ()


def test_only_the_first_of_several_tracks_is_heard_with_a_warning() -> None:
    clip = decode_clip(recorded_file("mka", tone(2), tracks=3))
    assert clip.seconds == 2
    assert clip.warnings == ("the file has 3 audio tracks: only the first was heard",)


def test_codecs_of_video_sound_are_read_and_others_are_refused() -> None:
    assert decode_clip(recorded_file("mka", tone(2), codec="mp2")).seconds == pytest.approx(2, abs=0.15)
    with pytest.raises(AudioError, match="unsupported encoding"):
        decode_clip(recorded_file("mka", tone(2), codec="tta"))


def test_an_old_quicktime_file_may_begin_without_its_type() -> None:
    data = recorded_file("mp4", tone(2))
    assert loudest_hertz(decode_clip(data[:4] + b"wide" + data[8:])) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("codec", ["pcm_u8", "adpcm_ima_qt"])
def test_the_samples_of_old_films_are_read(codec: str) -> None:
    assert loudest_hertz(decode_clip(recorded_file("mov", tone(2), codec=codec))) == pytest.approx(440, abs=2)


def test_flac_in_ogg_is_read() -> None:
    flac, ogg = io.BytesIO(), io.BytesIO()
    soundfile.write(flac, tone(2), RATE, format="FLAC")
    flac.seek(0)
    with av.open(flac) as source, av.open(ogg, "w", format="ogg") as target:
        stream = target.add_stream_from_template(source.streams.audio[0])
        for packet in source.demux(source.streams.audio[0]):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    clip = decode_clip(ogg.getvalue())
    assert (clip.seconds, clip.warnings) == (2, ())


def test_channels_that_cancel_each_other_out_are_not_mixed() -> None:
    clip = decode_clip(recorded_file("mka", np.stack([tone(2), -tone(2)], axis=1)))
    assert loudest_hertz(clip) == pytest.approx(440, abs=2)
    assert clip.warnings == ("the channels cancel each other out: only channel 1 was heard",)


def test_a_long_clip_is_cut_but_a_long_recording_is_heard_whole() -> None:
    data = recorded_file("m4a", np.concatenate([tone(20), np.zeros(RATE, np.float32), tone(20, hertz=880)]))
    clip = decode_clip(data)
    assert clip.seconds == 30
    assert clip.warnings == ("audio clip of more than 30 s was cut to 30 s",)
    recording = Recording(data, None)
    first, second = (window for window in recording.steps(30, None) if window is not None)
    assert loudest_hertz(Clip(first.samples, RATE)) == pytest.approx(440, abs=2)
    assert loudest_hertz(Clip(second.samples, RATE)) == pytest.approx(880, abs=2)
    assert recording.seconds == pytest.approx(41, abs=0.2)


@pytest.mark.parametrize("name", ["webm", "aac", "mp4 in fragments"])
def test_a_truncated_file_is_heard_up_to_the_cut(name: str) -> None:
    data = recorded_file(name, np.random.default_rng(0).uniform(-0.5, 0.5, 8 * RATE).astype(np.float32))
    clip = decode_clip(data[: len(data) * 3 // 4])
    assert 1 < clip.seconds < 7
    (warning,) = clip.warnings
    assert "damaged or cut off after" in warning


def test_an_mp4_without_its_index_is_refused() -> None:
    data = recorded_file("m4a", tone(2))
    with pytest.raises(AudioError, match="begins as MP4"):
        decode_clip(data[: len(data) // 2])


def test_the_decoder_process_ends_when_reading_stops() -> None:
    data = recorded_file("m4a", tone(40))
    steps = Recording(data, None).steps(30, None)
    next(steps)
    steps.close()
    with AvSound(data, "MP4 (m4a, mp4, mov, 3gp)") as sound:
        pid = sound.pid
        sound.read(10)
    assert not os.path.exists(f"/proc/{pid}")


def test_decoding_opens_no_other_file(tmp_path: Path) -> None:
    """A playlist after another format's magic number is not read as one, although an AMR file may hold anything."""
    secret = tmp_path / "secret.wav"
    soundfile.write(secret, tone(2), RATE)
    for text in (f"ffconcat version 1.0\nfile {secret}\n", f"#EXTM3U\n#EXTINF:1,\nfile://{secret}\n"):
        for data in (text.encode(), *(magic + text.encode() for magic in MAGIC.values())):
            with contextlib.suppress(AudioError):
                assert decode_clip(data).seconds < 1


@settings(max_examples=15)
@given(st.sampled_from(sorted(MAGIC)), st.binary(max_size=400))
def test_any_bytes_after_a_magic_number_give_a_clip_or_an_audio_error(name: str, rest: bytes) -> None:
    try:
        clip = decode_clip(MAGIC[name] + rest)
    except AudioError:
        return
    assert 1 <= len(clip.samples) <= 30 * RATE


def test_damaged_files_give_a_clip_or_an_audio_error() -> None:
    random = np.random.default_rng(3)
    for name in FORMATS:
        data = np.frombuffer(recorded_file(name, tone(1)), np.uint8)
        damaged = data[: random.integers(16, len(data) + 1)].copy()
        damaged[random.integers(12, len(damaged), 8)] = random.integers(0, 256, 8)
        with contextlib.suppress(AudioError):
            decode_clip(damaged.tobytes())


def test_the_message_names_the_package_if_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AudioError, match="AMR needs the package av"):
        decode_clip(b"#!AMR\n")


def test_supported_kinds_are_recognised_by_their_first_bytes() -> None:
    assert {kind_of(magic) for magic in MAGIC.values()} == set(DEMUXERS)
    out = io.BytesIO()
    soundfile.write(out, tone(0.1), RATE, format="MP3")
    assert kind_of(out.getvalue()[:16]) == "MP3"
