"""The text side of the runtime: encodes users' texts and decodes the model's ids."""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.tokenizer.offset import reserved_names

_NORMALIZED = 3
"""How much shorter a normalized text may be: NFC combines up to three characters of a Korean syllable."""

_PIECE = 16_384
"""Characters that are encoded at a time to estimate the number of ids."""
_CUT_IDS = 64
"""More ids than the cut at the end of a piece adds."""
_TOO_MANY = 8
"""A text with this many times the allowed ids is not encoded completely; the caller refuses shorter ones."""

_BYTE_OF: dict[str, int] = {character: byte for byte, character in bytes_to_unicode().items()}


class TextTokenizer:
    """Text to SpeechLM ids and back.

    It uses the served directory's ``tokenizer.json``, whose ids are already SpeechLM ids
    (see :func:`sglang_speechlm.tokenizer.offset_tokenizer`).
    """

    def __init__(self, tokenizer: Tokenizer, config: SpeechLMConfig) -> None:
        """Take a loaded offset tokenizer.

        Raises:
            ValueError: if the reserved names do not have the config's ids, or are not added tokens.
        """
        ids = config.ids
        added = tokenizer.get_added_tokens_decoder()
        for index, name in enumerate(reserved_names(config)):
            if tokenizer.token_to_id(name) != index:
                raise ValueError(
                    f"tokenizer.json gives {name} the id {tokenizer.token_to_id(name)}; expected {index}: "
                    "the tokenizer does not match this config"
                )
            if index not in added or not added[index].special:
                raise ValueError(f"tokenizer.json has {name} in its vocabulary, but not as a special added token")
        self._ids = ids
        self._pad_for_raw_zero = config.text_id_zero_is_pad
        self._tokenizer = tokenizer
        # Special names inside a text are spelled out, so that no text can start or end a turn.
        self._tokenizer.encode_special_tokens = True
        self._special = {index for index, token in added.items() if token.special}
        self._bytes: dict[int, bytes] = {}
        self._longest = max(map(len, tokenizer.get_vocab())) * _NORMALIZED

    @classmethod
    def from_pretrained(cls, path: str | Path, config: SpeechLMConfig) -> TextTokenizer:
        """Load the ``tokenizer.json`` of a served directory.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is broken, or its ids do not match the config.
        """
        file = Path(path) / "tokenizer.json"
        if not file.is_file():
            raise FileNotFoundError(f"no tokenizer.json in {path}")
        try:
            tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # tokenizers has no class of its own for it
            raise ValueError(f"{file}: no tokenizer: {error}") from error
        return cls(tokenizer, config)

    @classmethod
    def fits(cls, path: str | Path, config: SpeechLMConfig) -> bool:
        """Whether a directory's tokenizer has the config's ids, under the names of ``reserved_names``.

        Raises:
            FileNotFoundError: if there is none.
        """
        try:
            cls.from_pretrained(path, config)
        except ValueError:
            return False
        return True

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Return the SpeechLM ids of ``text``: no control ids, except pad for the raw id 0 if the config says so.

        Args:
            limit: the maximum number of ids that the caller can use.

        Raises:
            ValueError: if ``check`` refuses the text.
        """
        self.check(text, limit)
        encoded = _ids_of(self._tokenizer, text)
        if self._pad_for_raw_zero:
            return [self._ids.pad if index == self._ids.text_begin else index for index in encoded]
        return encoded

    def encode_with_names(self, text: str, limit: int) -> list[int]:
        """Return the ids of ``text`` as SGLang encodes it: names of control ids become these ids.

        Raises:
            ValueError: if the text has more ids than ``limit``, or ``check`` refuses it.
        """
        self.check(text, limit)
        ids = _ids_of(self._with_names, text)
        if len(ids) > limit:
            raise ValueError(f"a text of {len(ids)} tokens is too long; the context length is {limit} tokens")
        return ids

    @cached_property
    def _with_names(self) -> Tokenizer:
        """Return a second tokenizer, because the treatment of names is a setting of the tokenizer, not of a call."""
        tokenizer = Tokenizer.from_str(self._tokenizer.to_str())
        tokenizer.encode_special_tokens = False
        return tokenizer

    def check(self, text: str, limit: int | None = None) -> None:
        """Check a text before all of it is encoded, which could take minutes for a long one.

        Raises:
            ValueError: if ``text`` has a lone surrogate, which UTF-8 cannot encode, or is so long that it must exceed
                ``limit`` ids.
        """
        try:
            size = len(text.encode("utf-8"))
        except UnicodeEncodeError as error:
            raise ValueError(f"text has a lone surrogate at character {error.start}") from None
        if limit is not None and (size > limit * self._longest or (size > limit and self._exceeds(text, limit))):
            raise ValueError(f"a text of {size} bytes is too long; the context length is {limit} tokens")

    def _exceeds(self, text: str, limit: int) -> bool:
        """Whether a text has many times ``limit`` ids, judged by its pieces, whose ends may cut words."""
        ids = 0
        for start in range(0, len(text), _PIECE):
            ids += len(_ids_of(self._tokenizer, text[start : start + _PIECE])) - _CUT_IDS
            if ids > _TOO_MANY * limit:
                return True
        return False

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ``ids``, without control, special and codec ids; broken UTF-8 becomes U+FFFD."""
        return b"".join(self.token_bytes(index) for index in ids).decode("utf-8", errors="replace")

    def stream(self) -> TextStream:
        """Return a decoder for ids that arrive a few at a time."""
        return TextStream(self)

    def token_bytes(self, index: int) -> bytes:
        """Return the UTF-8 bytes of id ``index``, possibly part of a character; empty for ids that are not text."""
        known = self._bytes.get(index)
        if known is None:
            known = self._bytes[index] = self._spell(index)
        return known

    def _spell(self, index: int) -> bytes:
        if not self._ids.text_begin <= index < self._ids.text_end or index in self._special:
            return b""
        token: str | None = self._tokenizer.id_to_token(index)
        if token is None:
            return b""
        if all(character in _BYTE_OF for character in token):
            return bytes(_BYTE_OF[character] for character in token)
        return token.encode("utf-8")


def _ids_of(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a text. Unlike ``encode``, this releases Python's lock for other threads."""
    ids: list[int] = tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
    return ids


class TextStream:
    """Decodes ids as they arrive; its results, joined, equal ``decode`` of all of them."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, ids: Iterable[int]) -> str:
        """Take ids and return the text that they complete; an incomplete character is held back."""
        return self._decoder.decode(b"".join(self._tokenizer.token_bytes(index) for index in ids))

    def flush(self) -> str:
        """Return the rest: U+FFFD for a character that was never completed, else nothing."""
        return self._decoder.decode(b"", final=True)
