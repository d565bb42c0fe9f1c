"""What the HTTP process and the codec worker say to each other, over a socket pair that only they hold.

A message is a pickled dataclass after its length; both ends run the same code, one is the other's child.
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
class WorkerOptions:
    """How the worker runs.

    Args:
        checkpoint: directory of the served checkpoint.
        config: its config.
        device: where the codec runs, as torch names it.
        threads: CPU threads of a decode.
        nice: added to the worker's niceness, so that on a CPU the language model goes first.
        batch_codes: codes in one decode, at most (or one window), which bounds how long others wait for it.
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
    """To the worker: a new stream, of which at most ``undelivered_limit`` pieces (None: any number) may be out."""

    stream: int
    undelivered_limit: int | None


@dataclass(frozen=True)
class Push:
    """To the worker: ``[n, S]`` more codes of a stream."""

    stream: int
    codes: npt.NDArray[np.integer]


@dataclass(frozen=True)
class Finish:
    """To the worker: no more codes will come for a stream."""

    stream: int


@dataclass(frozen=True)
class Delivered:
    """To the worker: the reader of a stream took a piece."""

    stream: int


@dataclass(frozen=True)
class Close:
    """To the worker: forget a stream."""

    stream: int


@dataclass(frozen=True)
class Ready:
    """From the worker: the codec is loaded."""


@dataclass(frozen=True)
class StartFailed:
    """From the worker: the codec can't be loaded; the worker ends."""

    reason: str


@dataclass(frozen=True)
class Piece:
    """From the worker: the next samples of a stream, float32 ``[n]``."""

    stream: int
    samples: npt.NDArray[np.float32]


@dataclass(frozen=True)
class End:
    """From the worker: a stream's last piece was sent and the stream is forgotten."""

    stream: int


@dataclass(frozen=True)
class Refused:
    """From the worker: a stream's data was wrong and the stream is forgotten."""

    stream: int
    reason: str


@dataclass(frozen=True)
class Slots:
    """From the worker, whenever it has changed: how many streams it holds."""

    count: int


Request = WorkerOptions | Open | Push | Finish | Delivered | Close
Reply = Ready | StartFailed | Piece | End | Refused | Slots

_LENGTH = struct.Struct("!Q")


def encode(message: Request | Reply) -> bytes:
    """A message as bytes for the socket."""
    body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(body)) + body


class MessageReader:
    """Turns what is received, in whatever portions, into messages."""

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
