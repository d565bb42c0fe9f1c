"""The messages between the HTTP process and the codec process, over a private socket pair.

A message is a pickled dataclass, preceded by its length. Pickle is safe here: one end is the other's child, and both
    run
the same code.
"""

from __future__ import annotations

import pickle
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sglang_speechlm.codec.windows import PiecePolicy
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
    """To the codec process: open a stream; at most ``undelivered_limit`` pieces (None: any number) may be unread."""

    stream: int
    undelivered_limit: int | None


@dataclass(frozen=True)
class Push:
    """To the codec process: ``[n, S]`` more codes of a stream."""

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


@dataclass(frozen=True)
class StartFailed:
    """From the codec process: the codec can't be loaded; the process ends."""

    reason: str


@dataclass(frozen=True)
class Piece:
    """From the codec process: the next samples of a stream, float32 ``[n]``."""

    stream: int
    samples: npt.NDArray[np.float32]


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

_LENGTH = struct.Struct("!Q")


def encode(message: Request | Reply) -> bytes:
    """Return a message as bytes for the socket."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


class MessageReader:
    """Turns received bytes, in any portions, into messages."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes) -> list[Request | Reply]:
        """Take received bytes and return the messages that they complete."""
        self._received += data
        messages: list[Request | Reply] = []
        start = 0
        while len(self._received) - start >= _LENGTH.size:
            body = start + _LENGTH.size
            stop = body + _LENGTH.unpack_from(self._received, start)[0]
            if stop > len(self._received):
                break
            messages.append(pickle.loads(self._received[body:stop]))
            start = stop
        del self._received[:start]
        return messages
