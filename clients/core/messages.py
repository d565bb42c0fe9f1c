"""A line's messages in the server's form: select those to send, and read their audio."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from .audio import AudioFiles
from .failure import Failure, Kind
from .lines import Message

LEFT_OUT = "the assistant's audio was left out: the server accepts only its own"


def to_speak_about(messages: Sequence[Message]) -> list[Message]:
    """Return the messages to send for audio generation: all but the assistant's, which are the ground truth."""
    return [message for message in messages if message.role != "assistant"]


def split_ground_truth(messages: Sequence[Message]) -> tuple[list[Message], str | None]:
    """Split off the assistant's last turn if it ends the line; return the messages before it, and its text.

    Sending it would tell the model the answer.
    """
    sent = len(messages)
    while sent and messages[sent - 1].role == "assistant":
        sent -= 1
    texts = [message.content for message in messages[sent:] if message.modality == "text"]
    return list(messages[:sent]), " ".join(texts) or None


def written_history(messages: Sequence[Message]) -> tuple[list[Message], list[str]]:
    """Return the messages with the assistant's turns as text only, and warnings about that.

    The server accepts an assistant's audio only as the id of one of its own recent answers, never as a file.

    Raises:
        Failure: SPOKEN_HISTORY, for a turn that has no text.
    """
    written: list[Message] = []
    notes: list[str] = []
    for role, turn in groupby(messages, key=lambda message: message.role):
        parts = list(turn)
        if role == "assistant" and any(message.modality == "audio" for message in parts):
            parts = [message for message in parts if message.modality == "text"]
            if not parts:
                raise Failure(Kind.SPOKEN_HISTORY, "the assistant's earlier turn has audio only, which cannot be sent")
            notes = [LEFT_OUT]
        written += parts
    return written, notes


def to_chat(messages: Sequence[Message], audio: AudioFiles) -> list[dict[str, Any]]:
    """Return the ``messages`` of a request's body, one for each of the line's.

    Args:
        messages: at least one.
        audio: the files that they name.

    Raises:
        Failure: if an audio file cannot be read, or if there are no messages.
    """
    if not messages:
        raise Failure(Kind.BAD_LINE, "messages: nothing to send: all messages are the assistant's")
    return [{"role": message.role, "content": _content(message, audio)} for message in messages]


def _content(message: Message, audio: AudioFiles) -> Any:
    if message.modality == "text":
        return message.content
    path, data = audio.read(message.content)
    clip = {"data": base64.b64encode(data).decode(), "format": path.suffix[1:].lower() or "wav"}
    return [{"type": "input_audio", "input_audio": clip}]
