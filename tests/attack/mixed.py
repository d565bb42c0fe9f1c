"""Concurrent bodies with extreme but valid values: no request may break the batch that it shares."""

from __future__ import annotations

import random
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from .ledger import Ledger
from .target import CHAT, Target

_AT_ONCE = 8
_IDS: list[list[int]] = [[0], [2, 3], [5] * 50, [1100, 300], [1543], [2**31 - 1]]
_SAMPLING: dict[str, list[Any]] = {
    "temperature": [0, 1e-9, 1, 2],
    "top_k": [1, -1, 5000],
    "top_p": [1e-300, 0.5, 1],
    "min_p": [0, 1e-300, 1],
    "frequency_penalty": [-2, 2],
    "presence_penalty": [-2, 2],
    "repetition_penalty": [0.01, 2],
    "stop": ["a", [" "] * 16, "\0"],
    "stop_token_ids": _IDS,
    "ignore_eos": [True],
    "n": [1, 2, 5],
}
_STAGE: dict[str, list[Any]] = {
    **_SAMPLING,
    "min_new_tokens": [0, 1, 7],
    "skip_special_tokens": [True, False],
    "stream_interval": [1, 2**31 - 1],
    "sampling_seed": [0, -(2**63), 2**63 - 1],
    "custom_params": [{}, {"audio": True}, {"audio": True, "cfg": 3.0}, {"audio": True, "min_frames": 5}],
}
_GENERATE: dict[str, list[Any]] = {
    "stream": [True, False],
    "return_logprob": [True, False],
    "logprob_start_len": [-1, 0, 5000],
    "top_logprobs_num": [0, 1, 100],
    "token_ids_logprob": _IDS,
    "return_text_in_logprobs": [True, False],
}
_CHAT: dict[str, list[Any]] = {
    **_SAMPLING,
    "logit_bias": [{"2": 100, "3": 100}, {"1543": 100}, {"1100": 100}, {str(index): -100 for index in range(1544)}],
    "seed": [0, -(2**63), 2**63 - 1],
    "min_tokens": [0, 1, 7],
    "stream": [True, False],
    "response_format": [{"type": "json_object"}],
    "speechlm": [
        {"mode": "text_audio"}, {"mode": "text_audio", "cfg": 20}, {"mode": "text_audio", "audio_topk": 1},
        {"mode": "text_audio", "text": "Hi.", "cfg": 1.5, "audio_max_frames": 1}, {"return_ids": True},
        {"mode": "text_audio", "text": "Hi.", "audio_min_frames": 20, "audio_temperature": 1e-9},
    ],
}  # fmt: skip
_PROMPTS: list[dict[str, Any]] = [
    {"text": "Hello."}, {"text": "\0"}, {"text": ["Hello.", "a" * 3000]}, {"input_ids": [1543]},
    {"input_ids": [[300, 1100], [5]]},
]  # fmt: skip


def mixed_bodies(target: Target, ledger: Ledger, count: int, seed: int) -> None:
    """Send concurrent bodies with extreme values: each gets an answer or a 400."""
    area = f"{target.name}: mixed batches"
    generator = random.Random(seed)
    cases = [_stage(generator) if generator.random() < 0.5 else _chat(generator) for _ in range(count)]

    def attempt(case: tuple[str, dict[str, Any]]) -> None:
        path, body = case
        try:
            response = client.post(path, json=body)
        except httpx.HTTPError as error:
            ledger.check(area, False, f"{type(error).__name__}: {path} {body}")
            return
        passed = response.status_code in (200, 400)
        ledger.check(area, passed, f"{response.status_code} {response.text[:80]}: {path} {body}")

    with target.client() as client, ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(attempt, cases))
    ledger.check(area, target.answers(), "no answer afterwards")


def _stage(generator: random.Random) -> tuple[str, dict[str, Any]]:
    params = {"max_new_tokens": generator.choice((0, 1, 8, 40)), **_some(generator, _STAGE)}
    return "/generate", {**generator.choice(_PROMPTS), "sampling_params": params, **_some(generator, _GENERATE)}


def _chat(generator: random.Random) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": "Hello."}]
    return CHAT, {"messages": messages, "max_tokens": generator.choice((1, 8, 40)), **_some(generator, _CHAT)}


def _some(generator: random.Random, fields: Mapping[str, list[Any]]) -> dict[str, Any]:
    return {name: generator.choice(fields[name]) for name in generator.sample(list(fields), generator.randrange(5))}
