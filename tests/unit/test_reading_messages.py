"""Reading messages: clips are decoded in threads of their own."""

import asyncio
import threading
from typing import Any

import pytest

from sglang_speechlm.audio.fetch import AllowedMedia
from sglang_speechlm.prompt.presets import load_preset
from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.reading.messages import MessageReader
from sglang_speechlm.server.reading.schema import ChatMessage
from sglang_speechlm.server.reading.store import AnswerStore

CLIP = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


class InThread(MessageReader):
    """Returns the name of the thread in which it runs, instead of decoding clips and encoding texts."""

    def _lay_out(self, *_: Any) -> Any:
        return threading.current_thread().name


@pytest.mark.parametrize(("content", "is_decoded"), [("Hi.", False), ([CLIP], True)])
def test_messages_without_clips_do_not_wait_for_clips(content: Any, is_decoded: bool) -> None:
    nothing: Any = None
    reader = InThread(nothing, nothing, load_preset("default"), AnswerStore(1, 1), AllowedMedia(), 9, 1, 1)
    message = ChatMessage.model_validate({"role": "user", "content": content})
    thread: Any = asyncio.run(reader.read([message], Warnings()))
    assert thread.startswith("decoding") == is_decoded
