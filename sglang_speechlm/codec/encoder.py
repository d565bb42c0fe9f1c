"""Files that are encoded while their sound is generated, by FFmpeg's libraries."""

from __future__ import annotations

from sglang_speechlm.codec.wav import Samples, to_pcm16

_ENCODERS = {
    # Neither has anything that is known only at the end, such as a length in its first frame.
    "mp3": ("libmp3lame", "mp3", {"write_xing": "0", "id3v2_version": "0"}),
    "opus": ("libopus", "ogg", {"page_duration": "200000"}),
    "aac": ("aac", "adts", {}),
}
"""By format: FFmpeg's encoder, container, and options of the container; a page of 0.2 s."""
ENCODED_IN_PIECES = tuple(_ENCODERS)
_BITS_PER_SECOND = 64_000


class Encoder:
    """Encodes one sound; the joined bytes do not depend on how the sound is split into pieces."""

    def __init__(self, name: str, rate: int) -> None:
        """Take the name of the format, one of ``ENCODED_IN_PIECES``, and the sample rate in Hz."""
        import av  # 20 MB, for servers that encode

        codec, container, options = _ENCODERS[name]
        self._bytes = _Bytes()
        self._file = av.open(self._bytes, "w", format=container, options={"flush_packets": "1", **options})
        self._file.flags |= av.container.Flags.bitexact.value  # no random numbers
        self._stream = self._file.add_stream(codec, rate=rate, layout="mono")
        self._stream.bit_rate = _BITS_PER_SECOND
        self._frame = av.AudioFrame.from_ndarray
        self._rate = rate

    def push(self, samples: Samples) -> bytes:
        """Take samples [n]; return the bytes that are complete by now."""
        if not len(samples):
            return b""  # FFmpeg has no empty frames
        frame = self._frame(to_pcm16(samples)[None], "s16", "mono")
        frame.sample_rate = self._rate
        self._file.mux(self._stream.encode(frame))
        return self._bytes.taken()

    def flush(self) -> bytes:
        """Return the rest, after the end of the sound."""
        self._file.mux(self._stream.encode(None))
        self._file.close()
        return self._bytes.taken()

    def __del__(self) -> None:
        """Close the file: PyAV frees an open one of which samples were encoded in a way that corrupts the heap."""
        if hasattr(self, "_file"):
            self._file.close()


class _Bytes:
    """A file that can only be written to."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def taken(self) -> bytes:
        parts, self._parts = self._parts, []
        return b"".join(parts)
