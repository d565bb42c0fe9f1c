"""Small checkpoints on the card compared with the reference on the CPU: without, with and beyond decode graphs."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from reference import Reference
from server import CASES, Client, regrets
from server.client import CHAT

from sglang_speechlm.checkpoint import CheckpointSpec, build_checkpoint
from sglang_speechlm.options.sglang_args import UNTESTED_OPTIONS
from sglang_speechlm.process import running

from .report import Figures, Report
from .scale import Scale

FLOAT32 = CheckpointSpec(seed=0)
BFLOAT16 = CheckpointSpec(seed=0, dtype="bfloat16", logit_scale=4.0)
REGRET = {"float32": 0.02, "bfloat16": 0.3}
"""Maximum distance of a chosen id's logit from the best one of the reference, which computes in float32."""
_CASES = CASES[::2]
_ANSWER_SECONDS = 120.0
_POOL = ("--max-total-tokens", "65536", "--host", "127.0.0.1")
_EAGER = ("--disable-cuda-graph",)
_FEW_GRAPHS = ("--cuda-graph-max-bs-decode", "8")
_PREFILL_GRAPHS = ("--cuda-graph-backend-prefill", "breakable")


def check(report: Report, scale: Scale, folder: Path) -> None:
    """Serve each checkpoint and compare its answers, one at a time and all at once."""
    checkpoints = {spec: build_checkpoint(folder / spec.dtype, spec=spec) for spec in (FLOAT32, BFLOAT16)}
    references = {spec: Reference.load(checkpoint) for spec, checkpoint in checkpoints.items()}

    def serve_and_judge(name: str, spec: CheckpointSpec, *options: str, crowd: int = 0) -> None:
        def measure(figures: Figures) -> None:
            log = folder / f"{name.replace(' ', '_')}.log"
            with running(checkpoints[spec], log, [*_POOL, *options, *scale.options]) as server:
                with Client(server.url) as client:
                    _judge(figures, client, references[spec], REGRET[spec.dtype])
                if crowd:
                    _crowd(figures, server.url, crowd)

        report.part(f"small, {name}", 130, measure)

    graphs = scale.on_gpu
    os.environ[UNTESTED_OPTIONS] = "1"  # these options are tested here
    serve_and_judge("float32, without graphs", FLOAT32, *(_EAGER if graphs else ()))
    serve_and_judge("bfloat16, with graphs", BFLOAT16)
    serve_and_judge("bfloat16, more rows than graphs", BFLOAT16, *(_FEW_GRAPHS if graphs else ()), crowd=scale.crowd)
    serve_and_judge("bfloat16, prefill in graphs", BFLOAT16, *(_PREFILL_GRAPHS if graphs else ()))


def _judge(figures: Figures, client: Client, reference: Reference, allowed: float) -> None:
    bodies = [case.body() for case in _CASES]
    alone = [client.chat(body) for body in bodies]
    together = client.chat_at_once(bodies)
    figures["answers"] = 2 * len(_CASES)
    figures["same_together"] = sum(
        _ids(single) == _ids(batched) for single, batched in zip(alone, together, strict=True)
    )
    worst: dict[str, float] = {}
    for case, answer in zip([*_CASES, *_CASES], [*alone, *together], strict=True):
        worst[case.name] = max(worst.get(case.name, 0.0), *regrets(client, reference, case, _ids(answer)[0]))
    figures["worst_regrets"] = {name: round(regret, 4) for name, regret in sorted(worst.items(), key=_by_regret)[:8]}
    largest = max(worst.values())
    assert largest <= allowed, f"an id's logit is {largest:.3f} below the reference's best; {allowed} are allowed"


def _by_regret(item: tuple[str, float]) -> float:
    return -item[1]


def _ids(answer: Any) -> tuple[list[int], Any]:
    extension = answer["choices"][0]["message"]["speechlm"]
    return extension["text_ids"], extension["codes"]


def _crowd(figures: Figures, url: str, size: int) -> None:
    """Request ``size`` concurrent answers."""
    bodies = [_CASES[number % len(_CASES)].body() for number in range(size)]
    limits = httpx.Limits(max_connections=None)
    with (
        httpx.Client(base_url=url, timeout=_ANSWER_SECONDS, limits=limits, trust_env=False) as client,
        ThreadPoolExecutor(size) as threads,
    ):
        answers = list(threads.map(lambda body: client.post(CHAT, json=body), bodies))
    figures["crowd"] = size
    refused = [answer for answer in answers if answer.status_code != 200]
    assert not refused, f"{len(refused)} of {size} were refused, the first with: {refused[0].text[:300]}"
