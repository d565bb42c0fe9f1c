"""Real servers for tests: configured, called over HTTP and compared with the reference."""

import sglang_speechlm  # noqa: F401  (first: transformers' models import torchvision, which needs its operators)

from .cases import BY_NAME, CASES, Case, clip, wav
from .client import (
    Client,
    assert_same_sound,
    deltas_of,
    events_of,
    message_of,
    open_request,
    pcm_of,
    raw_answer,
    raw_status,
    refused,
    samples_of,
)
from .judge import Judge, regrets
from .process import SECONDS, Server, command_of, launch, launching, listening_addresses, serving, slowed, wait_for

__all__ = [
    "BY_NAME",
    "CASES",
    "SECONDS",
    "Case",
    "Client",
    "Judge",
    "Server",
    "assert_same_sound",
    "clip",
    "command_of",
    "deltas_of",
    "events_of",
    "launch",
    "launching",
    "listening_addresses",
    "message_of",
    "open_request",
    "pcm_of",
    "raw_answer",
    "raw_status",
    "refused",
    "regrets",
    "samples_of",
    "serving",
    "slowed",
    "wait_for",
    "wav",
]
