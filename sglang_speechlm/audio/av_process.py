"""Decode one sound file with FFmpeg's libraries: python av_process.py DESCRIPTOR DEMUXER.

The file is read from memory that the parent shares through a file descriptor. Samples are written to the standard
output, after ``HEADER``. The process can open nothing else, neither files nor network connections, and its memory and
time are limited. The exit status is 0 only if the file is undamaged.
"""

from __future__ import annotations

import os
import resource
import struct
import sys
from typing import Any

HEADER = struct.Struct("<III")
"""Sample rate in Hz, number of channels, and number of tracks; interleaved 16-bit little-endian samples follow."""

_DECODERS = (
    "aac", "aac_latm", "ac3", "adpcm_ima_qt", "alac", "amrnb", "amrwb", "eac3", "flac", "mp2", "mp2float", "mp3",
    "mp3float", "opus", "libopus", "vorbis", "libvorbis", "pcm_alaw", "pcm_mulaw", "pcm_s8", "pcm_u8", "pcm_s16be",
    "pcm_s16le", "pcm_s24be", "pcm_s24le", "pcm_s32be", "pcm_s32le", "pcm_f32be", "pcm_f32le", "pcm_f64be", "pcm_f64le",
)  # fmt: skip
_MOST_SECONDS = 5 * 3600
"""Maximum length of the sound."""
_LIMITS = {
    resource.RLIMIT_AS: 1 << 30,
    resource.RLIMIT_CPU: 600,
    resource.RLIMIT_FSIZE: 0,
    resource.RLIMIT_CORE: 0,
}


def main(descriptor: int, demuxer: str) -> bool:
    """Decode a file. Return whether it is undamaged."""
    for limit, value in _LIMITS.items():
        resource.setrlimit(limit, (value, value))
    import av
    import av.logging
    import av.subtitles.stream  # otherwise imported when a file is opened

    # From here on, no further file descriptor can be opened.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    av.logging.set_level(av.logging.ERROR)
    options = {"codec_whitelist": ",".join(_DECODERS), "protocol_whitelist": "none"}
    with open(descriptor, "rb") as file, av.open(file, format=demuxer, options=options) as container:
        sound = container.streams.audio[0]
        # FFmpeg's own option only applies while it looks for streams.
        if sound.codec_context.codec.name not in _DECODERS:
            return False
        sound.codec_context.thread_count = 1
        # Earlier complaints are about other streams in the file, such as video.
        with av.logging.Capture(local=False) as complaints:
            is_well = _write(container.demux(sound), len(container.streams.audio))
        # FFmpeg's Opus parser complains about the empty packet at the end.
        return is_well and not any(demuxer in name.split(",") for _, name, _ in complaints)


def _write(packets: Any, tracks: int) -> bool:
    """Write the samples of packets of one of the tracks, skipping damaged ones. Return whether all were undamaged."""
    import av

    resampler = av.AudioResampler(format="s16")
    seconds, is_well = 0.0, True
    for packet in packets:
        try:
            frames = [resampled for frame in packet.decode() for resampled in resampler.resample(frame)]
        except (av.FFmpegError, ValueError):
            is_well = False
            continue
        for frame in frames:
            channels = frame.layout.nb_channels
            if not seconds:
                sys.stdout.buffer.write(HEADER.pack(frame.sample_rate, channels, tracks))
            sys.stdout.buffer.write(bytes(frame.planes[0])[: 2 * channels * frame.samples])
            seconds += frame.samples / frame.sample_rate
        if seconds > _MOST_SECONDS:
            break
    sys.stdout.buffer.flush()
    return is_well


if __name__ == "__main__":
    is_undamaged = main(int(sys.argv[1]), sys.argv[2])
    os._exit(0 if is_undamaged else 1)  # at once: tearing the modules down takes as long as decoding a short file
