"""The layout of a prompt: roles, modalities, contents and closing ids, as in the model's training (ESPnet)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sglang_speechlm.audio import content_hash, encoder_length
from sglang_speechlm.config import Ids, SpeechLMConfig


@dataclass(frozen=True)
class Text:
    """Text content: SpeechLM ids [n]."""

    ids: Sequence[int]


@dataclass(frozen=True, eq=False)
class Heard:
    """A clip: float32 mel [num_mel_bins, frames]."""

    mel: npt.NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Spoken:
    """The audio of an earlier answer: int64 delayed ids [frames, num_stream]."""

    frames: npt.NDArray[np.int64]


Content = Text | Heard | Spoken


@dataclass(frozen=True)
class Message:
    """One content of one role; a chat message with several parts becomes several messages.

    Attributes:
        role: system, user or assistant.
    """

    role: str
    content: Content


@dataclass(frozen=True, eq=False)
class PlacedAudio:
    """Audio at its position in the prompt.

    Attributes:
        feature: the model's input, mel [num_mel_bins, frames] or delayed ids [frames, num_stream].
        first, last: its positions, both inclusive.
        hash: of the feature; equal clips share their encoding and their prefix in the radix cache.
    """

    feature: npt.NDArray[np.float32] | npt.NDArray[np.int64]
    first: int
    last: int
    hash: int


@dataclass(frozen=True)
class Prompt:
    """A prompt, up to and including the <assistant> that opens the reply.

    Attributes:
        ids: stream 0 of every position; pad at positions of audio.
        audio: the audio in the prompt, in order.
    """

    ids: list[int] = field(default_factory=list)
    audio: list[PlacedAudio] = field(default_factory=list)

    @property
    def audio_positions(self) -> int:
        """Number of positions of audio."""
        return sum(placed.last + 1 - placed.first for placed in self.audio)

    def followed_by(self, ids: Sequence[int]) -> Prompt:
        """Return this prompt with more ids appended."""
        return Prompt([*self.ids, *ids], self.audio)


def lay_out(messages: Sequence[Message], config: SpeechLMConfig) -> Prompt:
    """Return <bos>, each message as <role> <modality> content, closed by <eot> before the same role and else by
    <eos>, then <assistant>.

    Raises:
        AudioError: if a clip is too short to give one encoder output.
    """
    ids = config.ids
    prompt = Prompt([ids.bos])
    for message, following in zip(messages, [*messages[1:], None], strict=True):
        content = message.content
        prompt.ids.append(ids.roles[message.role])
        prompt.ids.append(ids.text if isinstance(content, Text) else ids.audio)
        if isinstance(content, Text):
            prompt.ids.extend(content.ids)
        elif isinstance(content, Heard):
            _place(prompt, content.mel, encoder_length(content.mel.shape[1], config.audio_config.n_window), ids)
        else:
            _place(prompt, content.frames, len(content.frames), ids)
        same_role = following is not None and following.role == message.role
        prompt.ids.append(ids.eot if same_role else ids.eos)
    prompt.ids.append(ids.assistant)
    return prompt


def _place(prompt: Prompt, feature: npt.NDArray[np.float32] | npt.NDArray[np.int64], positions: int, ids: Ids) -> None:
    first = len(prompt.ids)
    prompt.audio.append(PlacedAudio(feature, first, first + positions - 1, content_hash(feature)))
    prompt.ids.extend([ids.pad] * positions)
