"""The messages between the HTTP process and the codec process, over a private socket pair.

A message is a header and a body. The messages of which every stream sends many have bodies of plain numbers; the others
are pickled. Pickle is safe here: one end is the other's child, and both run the same code.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sglang_speechlm.codec.wav import Samples
from sglang_speechlm.codec.windows import Context, PiecePolicy
from sglang_speechlm.config import SpeechLMConfig


@dataclass(frozen=True)
class CodecOptions:
    """The options of a codec process.

    Args:
        checkpoint: directory of the served checkpoint.
        config: its config.
        device: torch device of the codec.
        threads: CPU threads for decoding.
        nice: added to the process's niceness, so that the language model has priority on a CPU.
        batch_codes: maximum codes in one decode (but at least one window), which bounds how long others wait for it.
        policy: the sizes of a stream's pieces.
    """

    checkpoint: Path
    config: SpeechLMConfig
    device: str
    threads: int
    nice: int
    batch_codes: int
    policy: PiecePolicy


@dataclass(frozen=True)
class Open:
    """To the codec process: open a stream.

    Args:
        stream: its number.
        undelivered_limit: how many pieces may be unread.
        rate: in Hz; its sound is sent as 16-bit PCM at this rate. None for float samples at the codec's rate.
    """

    stream: int
    undelivered_limit: int
    rate: int | None


@dataclass(frozen=True)
class Push:
    """To the codec process: ``[n, S]`` more codes of a stream, below 2**31."""

    stream: int
    codes: npt.NDArray[np.integer]


@dataclass(frozen=True)
class Finish:
    """To the codec process: a stream has no more codes."""

    stream: int


@dataclass(frozen=True)
class Delivered:
    """To the codec process: the reader of a stream took a piece."""

    stream: int


@dataclass(frozen=True)
class Close:
    """To the codec process: drop a stream."""

    stream: int


@dataclass(frozen=True)
class Ready:
    """From the codec process: the codec is loaded."""

    context: Context


@dataclass(frozen=True)
class StartFailed:
    """From the codec process: the codec can't be loaded; the process ends."""

    reason: str


@dataclass(frozen=True)
class Piece:
    """From the codec process: the next samples of a stream, ``[n]``."""

    stream: int
    samples: Samples


@dataclass(frozen=True)
class End:
    """From the codec process: a stream's last piece was sent and the stream is dropped."""

    stream: int


@dataclass(frozen=True)
class Refused:
    """From the codec process: a stream's data was invalid and the stream is dropped."""

    stream: int
    reason: str


@dataclass(frozen=True)
class Slots:
    """From the codec process, after each change: its number of streams."""

    count: int


Request = CodecOptions | Open | Push | Finish | Delivered | Close
Reply = Ready | StartFailed | Piece | End | Refused | Slots

_HEADER = struct.Struct("<IBIH")
"""Size of the body, kind, and for kinds with plain bodies stream and codes per row."""
_PICKLED, _PUSH, _FLOATS, _PCM, _DELIVERED = range(5)
_CODE, _FLOAT, _INT16 = np.dtype("<i4"), np.dtype("<f4"), np.dtype("<i2")


def encode(message: Request | Reply) -> bytes:
    """Return a message as bytes for the socket.

    Raises:
        ValueError: if codes have another shape than ``[n, S]``.
        TypeError: if they are not integers.
    """
    match message:
        case Push(stream, codes):
            _, width = codes.shape
            body = codes.astype(_CODE, casting="same_kind").tobytes()
            return _HEADER.pack(len(body), _PUSH, stream, width) + body
        case Piece(stream, samples):
            kind, number = (_PCM, _INT16) if samples.dtype == np.int16 else (_FLOATS, _FLOAT)
            body = samples.astype(number, casting="same_kind", copy=False).tobytes()
            return _HEADER.pack(len(body), kind, stream, 1) + body
        case Delivered(stream):
            return _HEADER.pack(0, _DELIVERED, stream, 0)
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _HEADER.pack(len(body), _PICKLED, 0, 0) + body


class MessageReader:
    """Turns received bytes, in any portions, into messages."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> list[Request | Reply]:
        """Take received bytes and return the messages that they complete."""
        self._received += data
        messages: list[Request | Reply] = []
        start = 0
        while len(self._received) - start >= _HEADER.size:
            size, kind, stream, width = _HEADER.unpack_from(self._received, start)
            body = start + _HEADER.size
            if body + size > len(self._received):
                break
            start = body + size
            messages.append(_decoded(kind, stream, width, bytes(self._received[body:start])))
        del self._received[:start]
        return messages


def _decoded(kind: int, stream: int, width: int, body: bytes) -> Request | Reply:
    if kind == _PUSH:
        return Push(stream, np.frombuffer(body, _CODE).reshape(-1, width))
    if kind == _FLOATS:
        return Piece(stream, np.frombuffer(body, _FLOAT))
    if kind == _PCM:
        return Piece(stream, np.frombuffer(body, _INT16))
    if kind == _DELIVERED:
        return Delivered(stream)
    message: Request | Reply = pickle.loads(body)
    return message
