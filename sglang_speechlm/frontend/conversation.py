"""A script's state in the server's form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sglang.lang.chat_template import ChatTemplate

from sglang_speechlm.frontend.clips import CLIP, content_parts
from sglang_speechlm.frontend.errors import SpeechLMError

TEMPLATE = ChatTemplate(
    name="speechlm",
    default_system_prompt=None,
    role_prefix_and_suffix={role: (f"\n{role.upper()}: ", "") for role in ("system", "user", "assistant")},
    image_token=CLIP,
)
"""How the language prints a state; the server does the model's own layout."""


@dataclass(frozen=True)
class Turn:
    """The current reply of a script.

    Attributes:
        messages: the conversation before it, in the server's form.
        text: its text so far, without leading white space.
        is_open: whether the script is still inside it.
    """

    messages: list[dict[str, Any]]
    text: str
    is_open: bool


def turn_of(executor: Any) -> Turn:
    """Return the reply that this state is in, or has just ended.

    Raises:
        SpeechLMError: if the state is not at a reply of the assistant.
    """
    before = executor.messages_
    if executor.cur_role == "assistant":
        text = executor.text_[executor.cur_role_begin_pos :].lstrip()
    elif executor.cur_role is None and before and before[-1]["role"] == "assistant":
        *before, last = before
        text = last["content"]
    else:
        raise SpeechLMError(
            "the model replies as the assistant: write s += sgl.assistant(sgl.gen(...)), "
            "and speak inside that turn or after it"
        )
    messages = [{"role": message["role"], "content": content_parts(message["content"])} for message in before]
    return Turn(messages, text, executor.cur_role == "assistant")
