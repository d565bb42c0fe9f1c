"""A conversation as rows: <bos>, then <role> <modality> content <eot or eos> for each segment, then <assistant>."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
from torch import Tensor

from sglang_speechlm.config import Ids

from .frames import delay
from .request import Message

Row: TypeAlias = list[int] | Tensor
"""One position: the ids of all streams, or a continuous feature [hidden]."""


def control(token: int, ids: Ids) -> Row:
    """A text or control position: stream 0 holds the id, the other streams hold 0."""
    return [token] + [0] * (ids.num_stream - 1)


def prompt_rows(
    messages: Sequence[Message],
    ids: Ids,
    encode: Callable[[str], list[int]],
    hear: Callable[[np.ndarray], Tensor],
) -> list[Row]:
    """Rows of the prompt, including the <assistant> that opens the reply.

    A segment is closed by <eot> if the next one has the same role, otherwise by <eos>. The last one is always closed by
    <eos>, because the reply is not one of the prompt's messages.

    Args:
        encode: returns the ids of a text.
        hear: returns the features [k, hidden] of a waveform [n].
    """
    segments: list[tuple[str, str, Any]] = [
        (role, kind, content) for role, parts in messages for kind, content in parts
    ]
    rows = [control(ids.bos, ids)]
    for index, (role, kind, content) in enumerate(segments):
        rows.append(control(ids.roles[role], ids))
        if kind == "text":
            rows.append(control(ids.text, ids))
            rows += [control(token, ids) for token in encode(content)]
        elif kind == "audio":
            rows.append(control(ids.audio, ids))
            rows += list(hear(content))
        else:
            rows.append(control(ids.audio, ids))
            rows += delay(content, ids)
        same_role_follows = index + 1 < len(segments) and segments[index + 1][0] == role
        rows.append(control(ids.eot if same_role_follows else ids.eos, ids))
    rows.append(control(ids.assistant, ids))
    return rows
