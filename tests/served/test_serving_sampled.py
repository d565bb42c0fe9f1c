"""Sampled answers: seeds, top-k and distributions, checked with the reference's logits."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy
import torch
from reference import Reference, Request, undelay
from reference.request import TeacherForced
from server import CASES, Case, Client, Server, message_of, serving
from shared import POOL, SPEC
from torch import Tensor

from sglang_speechlm.checkpoint import build_checkpoint

IMPLAUSIBLE = 1e-4
"""p-value below which a distribution is not the expected one; all seeds are fixed, so no test is flaky."""
DRAWS = 400
TEXT_QUESTION = Request([("user", [("text", "What is the weather like today?")])], max_tokens=40)
SPOKEN_QUESTION = replace(TEXT_QUESTION, speak=True, text_max_tokens=12, audio_max_frames=30, max_tokens=100)
SAMPLED = {"text_temperature": 1.1, "text_top_k": 30, "audio_temperature": 1.2, "audio_topk": 12}


@pytest.fixture(scope="module")
def flat_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a checkpoint whose logits are so close together that many ids are likely."""
    return build_checkpoint(tmp_path_factory.mktemp("flat") / "small", spec=replace(SPEC, logit_scale=1.5))


@pytest.fixture(scope="module")
def flat(flat_checkpoint: Path) -> Reference:
    return Reference.load(flat_checkpoint)


@pytest.fixture(scope="module")
def server(flat_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(flat_checkpoint, tmp_path_factory.mktemp("flat") / "log", *POOL) as started:
        yield started


def body_of(request: Request, **speechlm: Any) -> dict[str, Any]:
    """Return a body without ``temperature``, so that the answer is sampled."""
    return {name: value for name, value in Case("", request).body(**speechlm).items() if name != "temperature"}


def stage_of(prompt: Sequence[int], seed: int, **params: Any) -> dict[str, Any]:
    """Return the body of a single audio stage, which returns raw frames."""
    params = {"max_new_tokens": 30, "custom_params": {"audio": True, "min_frames": 8}, **params}
    return {"input_ids": list(prompt), "sampling_params": {"sampling_seed": seed, **params}}


def before_audio(reference: Reference, request: Request, text_ids: Sequence[int]) -> list[int]:
    """Return stream 0 of the prompt up to <audio>."""
    ids = reference.ids
    rows = [int(row[0]) for row in reference.prompt(request.messages)]
    return [*rows, ids.text, *text_ids, ids.assistant, ids.audio]


def shares(logits: Tensor, top_k: int, temperature: float) -> Tensor:
    """Return the probabilities [C] of the candidates with logits [C]."""
    kept = logits.masked_fill(logits < logits.topk(top_k).values[-1], float("-inf"))
    return torch.softmax(kept.double() / temperature, dim=0)


def assert_distributed(sampled: Sequence[int], candidates: Tensor, probabilities: Tensor) -> None:
    """Compare sampled ids with the probabilities of the candidates by chi-square; rare candidates are pooled."""
    counts = np.array([list(sampled).count(int(candidate)) for candidate in candidates])
    expected = probabilities.numpy() * len(sampled)
    assert counts.sum() == len(sampled)
    assert not counts[expected == 0].any()
    order = np.argsort(expected)[::-1]
    counts, expected = counts[order], expected[order]
    frequent = max(int((expected >= 8).sum()) - 1, 1)
    counts = np.append(counts[:frequent], counts[frequent:].sum())
    expected = np.append(expected[:frequent], expected[frequent:].sum())
    assert len(counts) > 4
    assert scipy.stats.chisquare(counts, expected).pvalue > IMPLAUSIBLE


# Seeds


def test_a_seed_gives_the_same_answer_alone_and_in_a_batch_of_sixteen(client: Client) -> None:
    bodies = [body_of(case.request, seed=100 + number, **SAMPLED) for number, case in enumerate(CASES[:16])]
    client.clear_cache()
    together = [message_of(response)["speechlm"] for response in client.chat_at_once(bodies)]
    for number in (0, 1, 3, 7):
        alone = message_of(client.chat(bodies[number]))["speechlm"]
        assert (alone["text_ids"], alone["codes"]) == (together[number]["text_ids"], together[number]["codes"])


def test_different_seeds_give_different_answers(client: Client) -> None:
    bodies = [body_of(SPOKEN_QUESTION, seed=seed, **SAMPLED) for seed in (1, 2, 2**32 + 1, -1)]
    answers = [message_of(response)["speechlm"] for response in client.chat_at_once(bodies)]
    assert len({str(answer["text_ids"]) for answer in answers}) == 4
    assert len({str(answer["codes"]) for answer in answers}) == 4


def test_answers_without_a_seed_differ(client: Client) -> None:
    answers = client.chat_at_once([body_of(SPOKEN_QUESTION, **SAMPLED)] * 4)
    assert len({str(message_of(answer)["speechlm"]["text_ids"]) for answer in answers}) == 4


# Top-k


@pytest.mark.parametrize(("text_top_k", "audio_top_k"), [(30, 12), (2, 3), (1, 2), (5, 1)])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_every_id_is_among_its_top_k(
    cfg: float, text_top_k: int, audio_top_k: int, client: Client, flat: Reference
) -> None:
    answers = judged_answers(client, flat, cfg, text_top_k, audio_top_k)
    text_ranks = torch.cat([judged.text_ranks for judged in answers])
    audio_ranks = torch.cat([judged.audio_ranks for judged in answers if judged.audio_ranks is not None])
    assert len(audio_ranks) >= 3 * 8
    # Sampling uses the whole top-k, not only the best ids.
    assert int(text_ranks.max()) < text_top_k
    assert (int(text_ranks.max()) > 0) == (text_top_k > 1)
    for stream in audio_ranks.T:
        assert int(stream.max()) < audio_top_k
        assert (int(stream.max()) > 0) == (audio_top_k > 1)


def judged_answers(
    client: Client, flat: Reference, cfg: float, text_top_k: int, audio_top_k: int
) -> list[TeacherForced]:
    """Return the reference's logits for spoken answers; their raw frames come from separate audio stages."""
    request = replace(SPOKEN_QUESTION, cfg=cfg)
    temperatures = {"text_temperature": 1.5, "audio_temperature": 1.5}
    bodies = [
        body_of(request, seed=seed, text_top_k=text_top_k, audio_topk=audio_top_k, **temperatures) for seed in range(3)
    ]
    answers = [message_of(response)["speechlm"] for response in client.chat_at_once(bodies)]
    stages = [
        stage_of(
            before_audio(flat, request, answer["text_ids"]),
            seed,
            temperature=1.5,
            top_k=audio_top_k,
            custom_params={"audio": True, "min_frames": 8, "cfg": cfg},
        )
        for seed, answer in enumerate(answers)
    ]
    judged = []
    for answer, stage in zip(answers, client.generate_at_once(stages), strict=True):
        frames = stage["meta_info"]["frames"]
        if frames[-1][0] == flat.ids.eos:
            frames.pop()
        np.testing.assert_array_equal(answer["codes"], undelay(frames, flat.ids))
        judged.append(flat.teacher_forced_logits(request, answer["text_ids"], np.array(frames)))
    return judged


# Distributions


@pytest.mark.parametrize(("top_k", "temperature"), [(20, 0.8), (6, 1.6)])
def test_the_first_text_id_follows_the_references_softmax(
    top_k: int, temperature: float, client: Client, flat: Reference
) -> None:
    request = replace(TEXT_QUESTION, max_tokens=1)
    bodies = [
        {**body_of(request, seed=1000 * number, text_temperature=temperature, text_top_k=top_k), "n": 16}
        for number in range(DRAWS // 16)
    ]
    choices = [choice for response in client.chat_at_once(bodies) for choice in response["choices"]]
    sampled = [choice["message"]["speechlm"]["text_ids"][0] for choice in choices]
    judged = flat.teacher_forced_logits(request, sampled[:1])
    assert_distributed(sampled, judged.text_candidates, shares(judged.text_logits[0], top_k, temperature))


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_a_first_frame_follows_the_references_softmax_on_every_stream(
    cfg: float, client: Client, flat: Reference
) -> None:
    top_k, temperature = 8, 1.3
    request = replace(SPOKEN_QUESTION, cfg=cfg, text="Hello there.")
    text_ids = [*flat.encode("Hello there."), flat.ids.eot]
    prompt = before_audio(flat, request, text_ids)
    custom = {"audio": True, "min_frames": 8, "cfg": cfg}
    stages = [
        stage_of(prompt, seed, max_new_tokens=1, temperature=temperature, top_k=top_k, custom_params=custom)
        for seed in range(DRAWS)
    ]
    frames = np.array([output["meta_info"]["frames"][0] for output in client.generate_at_once(stages)])
    judged = flat.teacher_forced_logits(request, text_ids, frames[:1])
    assert judged.audio_logits is not None
    for stream, sampled in enumerate(frames.T):
        logits = judged.audio_logits[0, stream]
        assert_distributed(sampled, judged.audio_candidates[stream], shares(logits, top_k, temperature))
    best = judged.audio_logits[0].argmax(dim=1)
    likeliest = frames == judged.audio_candidates[torch.arange(8), best].numpy()
    for first, second in ((0, 1), (1, 2), (0, 7)):
        table = np.histogram2d(likeliest[:, first], likeliest[:, second], bins=2)[0]
        assert scipy.stats.chi2_contingency(table).pvalue > IMPLAUSIBLE
