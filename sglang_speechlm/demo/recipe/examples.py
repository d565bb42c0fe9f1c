"""Training examples: turns laid out as the positions that the model reads, with what it is to predict at each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from sglang_speechlm.codec.delay import interleave
from sglang_speechlm.config import Ids, SpeechLMConfig
from sglang_speechlm.demo.recipe.requests import Asked
from sglang_speechlm.demo.recipe.synthesis import Utterance, words_of
from sglang_speechlm.prompt.layout import Heard, Message, Prompt, Text, lay_out
from sglang_speechlm.tokenizer import TextTokenizer

IGNORED = -100
_FRAME_SECONDS = 0.02


@dataclass(frozen=True, eq=False)
class Voiced:
    """An utterance as codes.

    Attributes:
        codes: int64 [frames, streams].
        phones: index of the phone that each frame is in, [frames].
        words: index of the word that each frame is in or goes towards, [frames]; the number of words after the last.
    """

    text: str
    codes: npt.NDArray[np.int64]
    phones: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]


def voiced(utterance: Utterance, codes: npt.NDArray[np.int64], phone_names: Sequence[str]) -> Voiced:
    """Give each frame its phone and its word by the time of its middle."""
    ends = np.array([end for _, end in utterance.phones])
    middles = (np.arange(len(codes)) + 0.5) * _FRAME_SECONDS
    at = np.minimum(np.searchsorted(ends, middles), len(ends) - 1)
    towards = list(utterance.word_of_phone)
    following = max(towards) + 1
    for index in reversed(range(len(towards))):
        following = towards[index] = towards[index] if towards[index] >= 0 else following
    names = np.array([phone_names.index(name) for name, _ in utterance.phones])
    return Voiced(utterance.text, codes, names[at], np.array(towards)[at])


@dataclass(eq=False)
class Example:
    """One sequence; everything has its length in positions, and targets stand where they are predicted.

    Attributes:
        frames: int64 [n, streams], what is read; text in stream 0 and 0 in the others.
        text: the text id to predict, or IGNORED, [n].
        codes: the ids of the next frame, or IGNORED, [n, streams]; stream 0's last one is eos.
        word: first and last token position of the word that is being said, [n, 2]; IGNORED where nothing is.
        phone: the phone that is being said, or IGNORED, [n].
        mels: the clips that stand in it and their first positions.
        said: ids of what is said in its clip, or of the kind of sound that it is, [n]; empty without a clip.
    """

    frames: npt.NDArray[np.int64]
    text: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    word: npt.NDArray[np.int64]
    phone: npt.NDArray[np.int64]
    mels: list[tuple[int, npt.NDArray[np.float32]]] = field(default_factory=list)
    said: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.frames)


class Layout:
    """Makes examples for one config and tokenizer."""

    def __init__(self, config: SpeechLMConfig, tokenizer: TextTokenizer, file: Tokenizer, phones: int) -> None:
        self._config, self._ids, self._tokenizer, self._file = config, config.ids, tokenizer, file
        self._end_phone = phones

    def turn(self, asked: Asked, mel: npt.NDArray[np.float32] | None = None, *, text_first: bool = False) -> Prompt:
        """The prompt of a turn; a clip stands before the user's text, or after it, and alone if there is none."""
        messages = [Message("system", self._text(asked.system))] if asked.system else []
        user = [Message("user", self._text(asked.user))] if asked.user else []
        if mel is not None:
            user.insert(len(user) if text_first else 0, Message("user", Heard(mel)))
        return lay_out([*messages, *user], self._config)

    def written(self, prompt: Prompt, reply: str, said: str = "") -> Example:
        """The reply as text only; ``said`` is what its clip says."""
        ids = self._ids
        example = self._example(prompt, [ids.text, *self._tokenizer.encode(reply), ids.eot])
        example.said = self.said(said)
        return example

    def said(self, text: str) -> list[int]:
        """Ids of what a clip says; a word that is said alone has the id that it has within a sentence."""
        words = text.rstrip(".?!")
        return self._tokenizer.encode(words if " " in words else f" {words}") if words else []

    def spoken(self, prompt: Prompt, said: Voiced, heard: str = "", *, unconditional: bool) -> Example:
        """The reply as text and then as sound.

        Args:
            heard: what the prompt's clip says.
            unconditional: with nothing but pads before the sound, as guidance's unconditional branch has it.
        """
        ids = self._ids
        reply = self._tokenizer.encode(said.text)
        first_of_reply = len(prompt.ids) + 1
        before = self._example(prompt, [ids.text, *reply, ids.eot, ids.assistant])
        delayed = interleave(said.codes, ids)
        sound = np.concatenate([np.zeros((1, ids.num_stream), np.int64), delayed])
        sound[0, 0] = ids.audio
        n, m = len(before), len(delayed)
        example = _empty(n + 1 + m, ids.num_stream)
        example.frames[:n], example.frames[n:] = before.frames, sound
        example.text[:n] = before.text
        example.mels, example.said = before.mels, self.said(heard)
        example.codes[n : n + m] = delayed
        example.codes[n + m, 0] = ids.eos
        if unconditional:
            example.frames[:n] = 0
            example.text[:n] = IGNORED
            example.mels, example.said = [], ()
            return example
        spans = self._spans(said.text)
        tail = np.full(m - len(said.words), len(spans) - 1)
        example.word[n : n + m] = np.array(spans)[np.concatenate([said.words, tail])] + first_of_reply
        example.word[n + m] = example.word[n + m - 1]
        example.phone[n : n + m] = np.concatenate([said.phones, np.full(len(tail), self._end_phone)])
        example.phone[n + m] = self._end_phone
        return example

    def _text(self, text: str) -> Text:
        return Text(self._tokenizer.encode(text))

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """First and last token of each word, relative to the reply's first; at the end eot's, for what follows."""
        offsets = self._file.encode(text, add_special_tokens=False).offsets
        spans = []
        for begin, end in words_of(text):
            inside = [index for index, (first, last) in enumerate(offsets) if first < end and last > begin]
            spans.append((inside[0], inside[-1]))
        return [*spans, (len(offsets), len(offsets))]

    def _example(self, prompt: Prompt, reply: Sequence[int]) -> Example:
        row = np.array([*prompt.ids, *reply], np.int64)
        example = _empty(len(row), self._ids.num_stream)
        example.frames[:, 0] = row
        # <assistant>, <text> and <audio> are forced, never predicted.
        first = len(prompt.ids)
        example.text[first:-1] = np.where(_is_predicted(row[first + 1 :], self._ids), row[first + 1 :], IGNORED)
        example.mels = [(placed.first, placed.feature.astype(np.float32)) for placed in prompt.audio]
        return example


def _is_predicted(row: npt.NDArray[np.int64], ids: Ids) -> npt.NDArray[np.bool_]:
    is_text = (row >= ids.text_begin) | (row == ids.pad)
    return is_text | (row == ids.eot)


def _empty(length: int, streams: int) -> Example:
    return Example(
        frames=np.zeros((length, streams), np.int64),
        text=np.full(length, IGNORED, np.int64),
        codes=np.full((length, streams), IGNORED, np.int64),
        word=np.full((length, 2), IGNORED, np.int64),
        phone=np.full(length, IGNORED, np.int64),
    )


@dataclass(frozen=True, eq=False)
class Batch:
    """Examples side by side, padded at the end to the longest: tensors [batch, length, ...] as in Example."""

    frames: torch.Tensor
    text: torch.Tensor
    codes: torch.Tensor
    word: torch.Tensor
    phone: torch.Tensor
    mels: list[tuple[int, int, torch.Tensor]]
    """Row, first position and mel of each clip."""
    said: list[torch.Tensor]
    """What each clip says, [ids]; none at all where the examples do not tell."""


def collate(examples: Sequence[Example]) -> Batch:
    """Put examples side by side."""
    longest = max(map(len, examples))

    def padded(name: str, value: int) -> torch.Tensor:
        rows = [getattr(example, name) for example in examples]
        whole = np.full((len(rows), longest, *rows[0].shape[1:]), value, np.int64)
        for target, row in zip(whole, rows, strict=True):
            target[: len(row)] = row
        return torch.from_numpy(whole)

    return Batch(
        padded("frames", 0),
        padded("text", IGNORED),
        padded("codes", IGNORED),
        padded("word", IGNORED),
        padded("phone", IGNORED),
        [(row, first, torch.from_numpy(mel)) for row, example in enumerate(examples) for first, mel in example.mels],
        [torch.tensor(example.said) for example in examples if example.said],
    )
