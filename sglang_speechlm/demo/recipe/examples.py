"""Training examples: exchanges laid out as the positions that the model reads, with the targets of each position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from sglang_speechlm.codec.delay import interleave
from sglang_speechlm.config import Ids, SpeechLMConfig
from sglang_speechlm.demo.recipe.requests import Exchange
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
        phones: index of each frame's phone, [frames].
        words: index of each frame's current or next word, [frames]; after the last word, the number of words.
    """

    text: str
    codes: npt.NDArray[np.int64]
    phones: npt.NDArray[np.int64]
    words: npt.NDArray[np.int64]


def voiced(utterance: Utterance, codes: npt.NDArray[np.int64], phone_names: Sequence[str]) -> Voiced:
    """Assign each frame its phone and its word by the time of its middle."""
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
    """One training sequence; targets are at the positions that predict them.

    Attributes:
        frames: int64 [n, streams], the input; text in stream 0 and 0 in the others.
        text: the text id to predict, or IGNORED, [n].
        codes: the ids of the next frame, or IGNORED, [n, streams]; stream 0's last one is eos.
        word: first and last token position of the word being spoken, [n, 2]; IGNORED if none is.
        phone: the phone being spoken, or IGNORED, [n].
        mels: its clips and their first positions.
        transcript: ids of its clip's transcript, or of the kind of its sound, [n]; empty without a clip.
    """

    frames: npt.NDArray[np.int64]
    text: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    word: npt.NDArray[np.int64]
    phone: npt.NDArray[np.int64]
    mels: list[tuple[int, npt.NDArray[np.float32]]] = field(default_factory=list)
    transcript: Sequence[int] = ()

    def __len__(self) -> int:
        return len(self.frames)


class Layout:
    """Makes examples for one config and tokenizer."""

    def __init__(self, config: SpeechLMConfig, tokenizer: TextTokenizer, file: Tokenizer, phones: int) -> None:
        self._config, self._ids, self._tokenizer, self._file = config, config.ids, tokenizer, file
        self._end_phone = phones

    def turn(
        self, exchange: Exchange, mel: npt.NDArray[np.float32] | None = None, *, text_first: bool = False
    ) -> Prompt:
        """Return the prompt of an exchange, with the clip before the user's text or after it."""
        messages = [Message("system", self._text(exchange.system))] if exchange.system else []
        user = [Message("user", self._text(exchange.user))] if exchange.user else []
        if mel is not None:
            user.insert(len(user) if text_first else 0, Message("user", Heard(mel)))
        return lay_out([*messages, *user], self._config)

    def written(self, prompt: Prompt, reply: str, transcript: str = "") -> Example:
        """Return an example with the reply as text only; ``transcript`` is that of its clip."""
        ids = self._ids
        example = self._example(prompt, [ids.text, *self._tokenizer.encode(reply), ids.eot])
        example.transcript = self.transcript_ids(transcript)
        return example

    def transcript_ids(self, text: str) -> list[int]:
        """Return the ids of a clip's transcript; a single word gets the id that it has within a sentence."""
        words = text.rstrip(".?!")
        return self._tokenizer.encode(words if " " in words else f" {words}") if words else []

    def spoken(self, prompt: Prompt, speech: Voiced, heard: str = "", *, unconditional: bool) -> Example:
        """Return an example with the reply as text and then as sound.

        Args:
            prompt: the prompt.
            speech: the spoken reply.
            heard: the transcript of the prompt's clip.
            unconditional: whether only pads precede the sound, as in guidance's unconditional branch.
        """
        ids = self._ids
        reply = self._tokenizer.encode(speech.text)
        first_of_reply = len(prompt.ids) + 1
        before = self._example(prompt, [ids.text, *reply, ids.eot, ids.assistant])
        delayed = interleave(speech.codes, ids)
        sound = np.concatenate([np.zeros((1, ids.num_stream), np.int64), delayed])
        sound[0, 0] = ids.audio
        n, m = len(before), len(delayed)
        example = _empty(n + 1 + m, ids.num_stream)
        example.frames[:n], example.frames[n:] = before.frames, sound
        example.text[:n] = before.text
        example.mels, example.transcript = before.mels, self.transcript_ids(heard)
        example.codes[n : n + m] = delayed
        example.codes[n + m, 0] = ids.eos
        if unconditional:
            example.frames[:n] = 0
            example.text[:n] = IGNORED
            example.mels, example.transcript = [], ()
            return example
        spans = self._spans(speech.text)
        tail = np.full(m - len(speech.words), len(spans) - 1)
        example.word[n : n + m] = np.array(spans)[np.concatenate([speech.words, tail])] + first_of_reply
        example.word[n + m] = example.word[n + m - 1]
        example.phone[n : n + m] = np.concatenate([speech.phones, np.full(len(tail), self._end_phone)])
        example.phone[n + m] = self._end_phone
        return example

    def _text(self, text: str) -> Text:
        return Text(self._tokenizer.encode(text))

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Return each word's first and last token, relative to the reply's first; the last entry is eot's."""
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
    """A batch of examples, padded at the end to the longest: tensors [batch, length, ...] as in Example."""

    frames: torch.Tensor
    text: torch.Tensor
    codes: torch.Tensor
    word: torch.Tensor
    phone: torch.Tensor
    mels: list[tuple[int, int, torch.Tensor]]
    """Row, first position and mel of each clip."""
    transcripts: list[torch.Tensor]
    """The transcript of each clip, [ids]; empty if the examples have none."""


def collate(examples: Sequence[Example]) -> Batch:
    """Return a batch of examples."""
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
        [torch.tensor(example.transcript) for example in examples if example.transcript],
    )
