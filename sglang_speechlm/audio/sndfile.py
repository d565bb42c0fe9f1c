"""Read a file front to back with libsndfile, whatever its header claims."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import soundfile

from sglang_speechlm.audio.files import File, has_frame_count

if TYPE_CHECKING:
    from typing_extensions import Buffer


class SndfileSound(soundfile.SoundFile):
    """A file's samples, and what libsndfile left unread.

    Attributes:
        states_frames: whether its header states its length.
        tracks: number of tracks with sound.
    """

    tracks = 1

    def __init__(self, file: File) -> None:
        """Open a file.

        Raises:
            soundfile.LibsndfileError: if it cannot be read.
        """
        is_open_ended = file.kind == "MP3" and not has_frame_count(file.data)
        self._size = len(file.data)
        self._stream = _OpenEnded(file.data) if is_open_ended else _Bytes(file.data)
        super().__init__(self._stream)
        self.states_frames = self.frames < 2**63 - 1 and not is_open_ended

    @property
    def unread(self) -> int:
        """The number of bytes after the read position."""
        return max(0, self._size - self._stream.tell())

    def seekable(self) -> bool:
        """Return False: soundfile's seek after every block fails if no length is stated."""
        return False


class _Bytes(io.BytesIO):
    """Bytes in which the negative positions of damaged headers mean the beginning, as libsndfile expects."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(max(offset, 0) if whence == io.SEEK_SET else offset, whence)


class _OpenEnded(_Bytes):
    """A file that appears 40 times as long as it is; beyond its real end there is only an empty ID3v1 tag.

    libsndfile estimates the length of an MP3 without a Xing header from its size and its first frame's bit rate, and
    stops there even if a variable bit rate makes it longer. Bit rates range from 8 to 320 kbit/s.
    """

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self._end = 40 * len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            return super().seek(self._end + offset)
        return super().seek(offset, whence)

    def readinto(self, buffer: Buffer) -> int:
        if self.tell() < self._end - 128:
            return super().readinto(buffer)
        view = memoryview(buffer)
        view[:] = bytes(len(view))
        return len(view)
