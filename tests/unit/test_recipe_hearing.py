"""What the demonstration's model is taught to hear, and that the teaching is kept."""

from pathlib import Path

import numpy as np
import pytest
import torch
from recipe_tiny import QUESTION, SENTENCE, WORD, tiny_clips, tiny_layout

from sglang_speechlm.demo.recipe import corpus
from sglang_speechlm.demo.recipe.clips import Clips
from sglang_speechlm.demo.recipe.draws import Draws
from sglang_speechlm.demo.recipe.examples import Layout, Voiced, collate
from sglang_speechlm.demo.recipe.hearing import train_hearing
from sglang_speechlm.demo.recipe.language_model import HEARING, Trainee
from sglang_speechlm.demo.recipe.requests import ABOUT_A_CLIP, TRANSCRIBE
from sglang_speechlm.demo.recipe.vocabulary import new_config


@pytest.fixture
def clips(tmp_path: Path) -> Clips:
    return tiny_clips(tmp_path, Draws(0))


@pytest.fixture
def trainee() -> Trainee:
    torch.manual_seed(0)
    return Trainee(new_config(), phones=3)


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return tiny_layout(tmp_path)


def test_no_two_clips_are_the_same(clips: Clips) -> None:
    mels = [mel for text, mel in (clips.clip() for _ in range(60)) if text == WORD]
    assert len(mels) > 10
    assert len({mel.tobytes() for mel in mels}) == len(mels)


def test_each_clip_is_answered_by_what_is_in_it(clips: Clips) -> None:
    wanted = {
        WORD: {(about, corpus.named(WORD)) for about in ABOUT_A_CLIP} | {(TRANSCRIBE, WORD)},
        QUESTION: {("", "The capital of France is Paris."), (TRANSCRIBE, QUESTION)},
        SENTENCE: {(TRANSCRIBE, SENTENCE)},
        **{kind: {(about, said) for about in ABOUT_A_CLIP} for kind, said in corpus.SOUNDS.items()},
    }
    turns = [clips.exchange() for _ in range(400)]
    assert {said for _, said, _, _ in turns} == set(wanted)
    assert all((exchange.user, exchange.reply) in wanted[said] for exchange, said, _, _ in turns)


def test_a_reply_is_asked_for_by_a_clip_where_one_can(clips: Clips) -> None:
    exchange = clips.answered("The capital of France is Paris.")
    assert exchange is not None
    assert (exchange[0].user, exchange[1]) == ("", QUESTION)
    named = clips.answered(corpus.named(WORD))
    assert named is not None
    assert (named[0].user in ABOUT_A_CLIP, named[1]) == (True, WORD)
    assert clips.answered(SENTENCE) is None


def test_a_clip_is_not_drowned_by_its_positions(trainee: Trainee) -> None:
    sounds = torch.randn(2, 128, 150, generator=torch.Generator().manual_seed(0)) * 0.5
    first, second = trainee.hear(list(sounds))
    assert (first - second).norm() > 0.1 * first.norm()


def test_what_looks_like_its_text_is_recognised(trainee: Trainee) -> None:
    said = torch.tensor([trainee.ids.text_begin + 40, trainee.ids.text_begin + 300])
    heard = trainee.model.embed_tokens.weight[said].detach() * 1000
    assert trainee.recognition_loss([heard], [said]).item() < 0.01
    assert trainee.recognition_loss([heard], [said.flip(0)]).item() > 10


def test_what_is_said_must_be_text(trainee: Trainee) -> None:
    first, last = trainee.ids.text_begin, trainee.ids.text_end
    heard = torch.zeros(4, trainee.model.config.hidden_size)
    with pytest.raises(ValueError, match=rf"ids \[{first - 1}, {last}\]; text has ids {first}\.\.{last - 1}"):
        trainee.recognition_loss([heard], [torch.tensor([first, first - 1, last])])


def test_a_clips_position_holds_what_was_heard(trainee: Trainee, layout: Layout, clips: Clips) -> None:
    exchange, said, mel, first = clips.exchange()
    batch = collate([layout.written(layout.turn(exchange, mel, text_first=first), exchange.reply, said)])
    heard = trainee.hear([each for _, _, each in batch.mels])
    embeds = trainee.embed(batch, heard)
    (_, begin, _), (features,) = batch.mels[0], heard
    torch.testing.assert_close(embeds[0, begin : begin + len(features)], features)


@pytest.mark.parametrize("unconditional", [False, True])
def test_a_clip_and_what_it_says_come_and_go_together(unconditional: bool, layout: Layout, clips: Clips) -> None:
    turn = clips.answered("The capital of France is Paris.")
    assert turn is not None
    exchange, heard, mel = turn
    codes, frames = np.zeros((9, 8), np.int64), np.zeros(9, np.int64)
    said = Voiced(exchange.reply, codes, frames, frames)
    batch = collate([layout.spoken(layout.turn(exchange, mel), said, heard, unconditional=unconditional)])
    assert len(batch.mels) == len(batch.transcripts) == (0 if unconditional else 1)


def test_hearing_is_taught_once_and_kept(trainee: Trainee, layout: Layout, clips: Clips, tmp_path: Path) -> None:
    file = tmp_path / "hearing.pt"
    before = {name: tensor.clone() for name, tensor in trainee.state_dict().items()}
    train_hearing(trainee, clips, layout, 2, file)
    after = trainee.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(HEARING) for name in changed)
    torch.manual_seed(1)
    other = Trainee(new_config(), phones=3)
    train_hearing(other, clips, layout, 2, file)
    for name in changed:
        assert torch.equal(other.state_dict()[name], after[name])
