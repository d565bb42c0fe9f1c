"""Messages arrive unchanged, however the socket cuts them; codes and samples travel without pickle."""

import pickle
from typing import Any

import numpy as np
import pytest

from sglang_speechlm.codec.protocol import Close, Delivered, End, MessageReader, Open, Piece, Push, Refused, encode

MESSAGES: list[Any] = [
    Open(3, 4, 24000),
    Push(3, np.arange(24).reshape(3, 8)),
    Push(4, np.array([[0, -1, 2**31 - 1]])),
    Push(2**32 - 1, np.empty((0, 8), np.int32)),
    Piece(3, np.linspace(-1, 1, 640, dtype=np.float32)),
    Piece(3, np.arange(-320, 320, dtype=np.int16)),
    Delivered(3),
    Refused(4, "code 9 is outside"),
    End(3),
    Close(4),
]


def is_same_message(received: Any, expected: Any) -> bool:
    if type(received) is not type(expected) or received.stream != expected.stream:
        return False
    for name in ("codes", "samples"):
        if hasattr(expected, name):
            values = getattr(received, name)
            is_same_kind = np.can_cast(getattr(expected, name).dtype, values.dtype, "same_kind")
            return is_same_kind and np.array_equal(values, getattr(expected, name))
    return bool(received == expected)


@pytest.mark.parametrize("chunk_size", [1, 5, 1000, 1 << 18])
def test_messages_arrive_in_order_in_chunks_of_any_size(chunk_size: int) -> None:
    data = b"".join(map(encode, MESSAGES))
    reader = MessageReader()
    received = [
        message for at in range(0, len(data), chunk_size) for message in reader.feed(data[at : at + chunk_size])
    ]
    assert len(received) == len(MESSAGES)
    assert all(map(is_same_message, received, MESSAGES))


def test_frequent_messages_are_not_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle, "dumps", None)
    monkeypatch.setattr(pickle, "loads", None)
    for message in MESSAGES:
        if isinstance(message, (Push, Piece, Delivered)):
            assert is_same_message(MessageReader().feed(encode(message))[0], message)


def test_only_the_samples_of_a_slice_are_sent() -> None:
    samples = np.arange(100, dtype=np.float32)[10:20]
    (piece,) = MessageReader().feed(encode(Piece(1, samples)))
    assert isinstance(piece, Piece)
    assert np.array_equal(piece.samples, samples)


def test_codes_must_be_rows_of_integers() -> None:
    with pytest.raises(TypeError):
        encode(Push(1, np.zeros((2, 8))))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unpack"):
        encode(Push(1, np.zeros(8, np.int64)))
