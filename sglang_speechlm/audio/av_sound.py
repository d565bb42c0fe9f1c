"""Decode the formats of browsers and telephones with FFmpeg's libraries, in a separate process for each file.

The process (``av_process.py``) reads one file from memory, with a demuxer chosen by the file's first bytes, and writes
samples into a pipe as they are read.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from sglang_speechlm.audio.av_process import HEADER
from sglang_speechlm.audio.kinds import AAC, AMR, CODED_CAF, CODED_OGG, MATROSKA, MP4

DEMUXERS = {MP4: "mov", MATROSKA: "matroska", AAC: "aac", AMR: "amr", CODED_CAF: "caf", CODED_OGG: "ogg"}
"""FFmpeg's reader for each kind of file."""

_PROGRAM = Path(__file__).with_name("av_process.py")
_STALLED_SECONDS = 30.0
"""Timeout for the next byte, after which the process is killed."""
_KEPT_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "HOME")
"""Variables by which a process finds its packages."""
_SLICE = 1 << 16


class AvError(Exception):
    """A file could not be decoded, or not to its end."""


class AvSound:
    """A file's samples, read front to back while they are decoded.

    Attributes:
        samplerate: in Hz.
        channels: number of channels.
        tracks: number of tracks with sound, of which the first is read.
        pid: of the process.
    """

    format = "av"
    frames = 2**63 - 1
    states_frames = False
    unread = 0

    def __init__(self, data: bytes, kind: str) -> None:
        """Start to decode a file of one of the kinds in ``DEMUXERS``.

        Raises:
            AvError: if no sound was found in it.
        """
        memory = os.memfd_create("sound")
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(data)
            os.lseek(memory, 0, os.SEEK_SET)
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_PROGRAM), str(memory), DEMUXERS[kind]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=[memory],
                cwd="/",
                env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
            )
        finally:
            os.close(memory)
        self.pid = self._process.pid
        try:
            head = self._read_bytes(HEADER.size)
            if len(head) < HEADER.size:
                raise AvError("no sound was found")
        except BaseException:
            self.close()
            raise
        self.samplerate, self.channels, self.tracks = HEADER.unpack(head)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the process, if it is running."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def read(self, frames: int, dtype: Any = "float32", always_2d: bool = True) -> npt.NDArray[np.float32]:
        """Return the next frames, float32 ``[n, channels]``; at the end, fewer than requested.

        Raises:
            AvError: at the end, if the file is damaged.
        """
        width = 2 * self.channels
        data = self._read_bytes(frames * width)
        if not data and self._status() != 0:
            raise AvError("the file is damaged")
        samples = np.frombuffer(data[: len(data) // width * width], "<i2").reshape(-1, self.channels)
        return samples.astype(np.float32) / np.float32(32768)

    def _read_bytes(self, count: int) -> bytes:
        """Return the next bytes; fewer at the end.

        Raises:
            AvError: if none arrive in time.
        """
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        parts: list[bytes] = []
        while count:
            if not poll.poll(1000 * _STALLED_SECONDS):
                raise AvError("decoding took too long")
            piece = os.read(pipe, min(count, _SLICE))
            if not piece:
                break
            parts.append(piece)
            count -= len(piece)
        return b"".join(parts)

    def _status(self) -> int | None:
        """Return the exit status of a process whose output has ended; None if it does not exit."""
        try:
            return self._process.wait(_STALLED_SECONDS)
        except subprocess.TimeoutExpired:
            return None
