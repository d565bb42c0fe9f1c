"""Well-formed UTF-8, of which an id of a byte-level vocabulary may hold a part.

A grammar of characters knows how many bytes follow a first byte, but not which: surrogates, overlong forms and numbers
beyond Unicode would pass, and be read as several replacement characters.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_SECOND_BYTES = {0xE0: range(0xA0, 0xC0), 0xED: range(0x80, 0xA0), 0xF0: range(0x90, 0xC0), 0xF4: range(0x80, 0x90)}
"""The first bytes after which not every continuation byte may come, and those that may (Unicode 16, table 3-7)."""
_CONTINUATION = range(0x80, 0xC0)
_MOST_CONTINUATIONS = 3


def is_part_of_text(word: bytes) -> bool:
    """Return whether some well-formed text contains these bytes."""
    try:
        word.decode()
    except UnicodeDecodeError:  # true for few of a vocabulary's words
        return _can_be_completed(word)
    return True


def _can_be_completed(word: bytes) -> bool:
    rest = word.lstrip(bytes(_CONTINUATION))
    if len(word) - len(rest) > _MOST_CONTINUATIONS:
        return False
    if any(second not in _SECOND_BYTES[first] for first, second in pairwise(rest) if first in _SECOND_BYTES):
        return False  # Python's decoder finds some of these at the third byte only
    try:
        codecs.getincrementaldecoder("utf-8")().decode(rest)
    except UnicodeDecodeError:
        return False
    return True


class NextWords:
    """The ids whose bytes may come after those of another id.

    Args:
        words: the bytes of each id, each of them part of a text.
        vocab_size: the number of ids that a mask has bits for, at least ``len(words)``.
    """

    def __init__(self, words: Sequence[bytes], vocab_size: int) -> None:
        self._words = words
        begins = np.zeros(-(-vocab_size // 32) * 32, dtype=np.uint8)
        begins[: len(words)] = [word[0] if word else 0 for word in words]
        self._allowed = {first: _bits_of(begins, seconds) for first, seconds in _SECOND_BYTES.items()}

    def narrow(self, mask: Tensor, last: int) -> None:
        """Clear the bits of ids that cannot come after the id ``last``, unless none would be left.

        Args:
            mask: int32 [ceil(vocab_size / 32)], in which bit ``i % 32`` of element ``i // 32`` allows id ``i``.
        """
        allowed = self._allowed.get(self._words[last][-1]) if self._words[last] else None
        if allowed is not None and (mask & allowed).any():
            mask &= allowed


def _bits_of(begins: npt.NDArray[np.uint8], seconds: range) -> Tensor:
    """Return the mask of the words that begin with one of ``seconds``, or in the middle of no character."""
    allowed = ~np.isin(begins, _CONTINUATION) | np.isin(begins, seconds)
    return torch.from_numpy(np.packbits(allowed, bitorder="little").view(np.int32))
