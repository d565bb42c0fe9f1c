"""The formats of a transcript."""

import json
from types import SimpleNamespace
from typing import Any

import pytest

from sglang_speechlm.server.edge.warnings import Warnings
from sglang_speechlm.server.routes.transcript import Heading, answer


@pytest.mark.parametrize(("seconds", "counted"), [(0.05, 1), (2.0, 2), (2.26, 3)])
def test_usage_counts_whole_seconds(seconds: float, counted: int) -> None:
    dictation: Any = SimpleNamespace(segments=[])
    response = answer("verbose_json", "", dictation, seconds, Heading("transcribe", "", lambda _text: []), Warnings())
    body = json.loads(bytes(response.body))
    assert body["duration"] == seconds
    assert body["usage"] == {"type": "duration", "seconds": counted}
    assert isinstance(body["usage"]["seconds"], int)
