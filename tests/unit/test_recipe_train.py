"""The training data of the language model, and resuming an interrupted run."""

from collections import Counter
from copy import deepcopy
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe_tiny import tiny_clips, tiny_layout

from sglang_speechlm.demo.recipe import train as training
from sglang_speechlm.demo.recipe.draws import Draws
from sglang_speechlm.demo.recipe.examples import Batch, Voiced
from sglang_speechlm.demo.recipe.language_model import Trainee
from sglang_speechlm.demo.recipe.requests import Requests
from sglang_speechlm.demo.recipe.train import Plan, Supply, train
from sglang_speechlm.demo.recipe.vocabulary import new_config

FIXED, NAMED, SENTENCE = "The capital of France is Paris.", 'I hear the word "bird".', "The bird sits near the bridge."
PLAN = Plan(steps=4, spoken=3, written=2, heard=2)


def voiced(text: str) -> Voiced:
    codes, none = np.random.default_rng(len(text)).integers(256, size=(12, 8)), np.zeros(12, np.int64)
    return Voiced(text, codes, none, none)


def new_supply(folder: Path, plan: Plan = PLAN) -> Supply:
    draws = Draws(0)
    speech = [[voiced(text)] for text in (FIXED, NAMED, SENTENCE)]
    clips = tiny_clips(folder, draws)
    return Supply(tiny_layout(folder), speech, Requests([], draws.choices), clips, draws, plan, 8)


def new_trainee() -> Trainee:
    """Return a model that is narrower than the real one, and otherwise equal."""
    torch.manual_seed(0)
    config = new_config()
    config.hidden_size = config.text_config.hidden_size = 64
    config.text_config.intermediate_size = 128
    return Trainee(config, phones=3)


def no_hearing() -> None:
    pass


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainee, Trainee]:
    """Train without interruptions, and return the model half-way and at the end."""
    folder, model, snapshots = tmp_path_factory.mktemp("whole"), new_trainee(), list[Trainee]()
    train(model, new_supply(folder), PLAN, folder / "model.pt", lambda: snapshots.append(deepcopy(model)))
    (half_way,) = snapshots
    return half_way, model


def test_a_resumed_run_ends_like_an_uninterrupted_one(
    whole_run: tuple[Trainee, Trainee], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "_SAVED", 2)
    supply, calls, resumed = new_supply(tmp_path), count(), new_trainee()

    def interrupted() -> Batch:
        if next(calls):
            raise KeyboardInterrupt
        return Supply.heard(supply)

    monkeypatch.setattr(supply, "heard", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(new_trainee(), supply, PLAN, tmp_path / "model.pt", no_hearing)
    assert torch.load(tmp_path / "model.pt")["step"] == 2
    train(resumed, new_supply(tmp_path), PLAN, tmp_path / "model.pt", no_hearing)

    expected = whole_run[1].state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.state_dict().items())


def test_hearing_is_trained_once_half_way_and_changes_little_after(whole_run: tuple[Trainee, Trainee]) -> None:
    half_way, final = whole_run
    before, after = distances(new_trainee(), half_way), distances(half_way, final)
    assert 0 < before["model.norm.weight"] < after["model.norm.weight"]  # the rate is still rising
    assert 0 < after["adaptor.weight"] < before["adaptor.weight"]


def test_matrices_of_layers_change_equally_in_all_directions(tmp_path: Path) -> None:
    model, name = new_trainee(), "model.layers.2.self_attn.k_proj.weight"
    train(model, new_supply(tmp_path), replace(PLAN, steps=1), tmp_path / "model.pt", no_hearing)
    change = model.get_parameter(name) - new_trainee().get_parameter(name)
    step = PLAN.rate / PLAN.warm_up * 0.2 * max(change.shape) ** 0.5
    largest = float(torch.linalg.matrix_norm(change.detach(), 2))
    # Adam's first step is a matrix of signs, which is at least four times as long.
    assert 0.5 * step < largest < 1.3 * step


def distances(first: Trainee, second: Trainee) -> dict[str, float]:
    second_parameters = dict(second.named_parameters())
    return {
        name: float((second_parameters[name] - parameter).detach().norm())
        for name, parameter in first.named_parameters()
    }


def test_fixed_answers_have_a_share_of_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supply = new_supply(tmp_path, Plan(steps=1, spoken=100))
    counts = Counter[str]()
    answered = supply._requests.answered
    monkeypatch.setattr(supply._requests, "answered", lambda text: counts.update([text]) or answered(text))
    monkeypatch.setattr(supply._clips, "answered", lambda _: None)
    for _ in range(5):
        supply.spoken()
    shares = [counts[text] / counts.total() for text in (FIXED, NAMED, SENTENCE)]
    assert counts.total() == 500
    assert shares == pytest.approx([0.35, 0.1, 0.55], abs=0.07)
