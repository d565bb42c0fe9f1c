"""What the demo model is taught to hear, and that this training is kept."""

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


def test_each_clip_is_answered_according_to_its_content(clips: Clips) -> None:
    allowed = {
        WORD: {(about, corpus.named(WORD)) for about in ABOUT_A_CLIP} | {(TRANSCRIBE, WORD)},
        QUESTION: {("", "The capital of France is Paris."), (TRANSCRIBE, QUESTION)},
        SENTENCE: {(TRANSCRIBE, SENTENCE)},
        **{kind: {(about, answer) for about in ABOUT_A_CLIP} for kind, answer in corpus.SOUNDS.items()},
    }
    turns = [clips.exchange() for _ in range(400)]
    assert {content for _, content, _, _ in turns} == set(allowed)
    assert all((exchange.user, exchange.reply) in allowed[content] for exchange, content, _, _ in turns)


def test_a_reply_is_prompted_by_a_matching_clip_if_there_is_one(clips: Clips) -> None:
    exchange = clips.answered("The capital of France is Paris.")
    assert exchange is not None
    assert (exchange[0].user, exchange[1]) == ("", QUESTION)
    named = clips.answered(corpus.named(WORD))
    assert named is not None
    assert (named[0].user in ABOUT_A_CLIP, named[1]) == (True, WORD)
    assert clips.answered(SENTENCE) is None


def test_features_depend_more_on_the_clip_than_on_positions(trainee: Trainee) -> None:
    sounds = torch.randn(2, 128, 150, generator=torch.Generator().manual_seed(0)) * 0.5
    first, second = trainee.hear(list(sounds))
    assert (first - second).norm() > 0.1 * first.norm()


def test_features_close_to_the_text_embeddings_are_recognised(trainee: Trainee) -> None:
    text_ids = torch.tensor([trainee.ids.text_begin + 40, trainee.ids.text_begin + 300])
    features = trainee.model.embed_tokens.weight[text_ids].detach() * 1000
    assert trainee.recognition_loss([features], [text_ids]).item() < 0.01
    assert trainee.recognition_loss([features], [text_ids.flip(0)]).item() > 10


def test_a_transcript_must_have_text_ids(trainee: Trainee) -> None:
    first, last = trainee.ids.text_begin, trainee.ids.text_end
    features = torch.zeros(4, trainee.model.config.hidden_size)
    with pytest.raises(ValueError, match=rf"ids \[{first - 1}, {last}\]; text has ids {first}\.\.{last - 1}"):
        trainee.recognition_loss([features], [torch.tensor([first, first - 1, last])])


def test_the_positions_of_a_clip_hold_its_features(trainee: Trainee, layout: Layout, clips: Clips) -> None:
    exchange, content, mel, first = clips.exchange()
    batch = collate([layout.written(layout.turn(exchange, mel, text_first=first), exchange.reply, content)])
    heard = trainee.hear([mel for _, _, mel in batch.mels])
    embeds = trainee.embed(batch, heard)
    (_, begin, _), (features,) = batch.mels[0], heard
    torch.testing.assert_close(embeds[0, begin : begin + len(features)], features)


@pytest.mark.parametrize("unconditional", [False, True])
def test_a_clip_and_its_transcript_are_both_present_or_both_absent(
    unconditional: bool, layout: Layout, clips: Clips
) -> None:
    turn = clips.answered("The capital of France is Paris.")
    assert turn is not None
    exchange, content, mel = turn
    codes, frames = np.zeros((9, 8), np.int64), np.zeros(9, np.int64)
    reply = Voiced(exchange.reply, codes, frames, frames)
    batch = collate([layout.spoken(layout.turn(exchange, mel), reply, content, unconditional=unconditional)])
    assert len(batch.mels) == len(batch.transcripts) == (0 if unconditional else 1)


def test_hearing_is_trained_once_and_kept(trainee: Trainee, layout: Layout, clips: Clips, tmp_path: Path) -> None:
    file = tmp_path / "hearing.pt"
    before = {name: tensor.clone() for name, tensor in trainee.state_dict().items()}
    train_hearing(trainee, clips, layout, 2, file)
    after = trainee.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert all(name.startswith(HEARING) for name in changed)
    torch.manual_seed(1)
    resumed = Trainee(new_config(), phones=3)
    train_hearing(resumed, clips, layout, 2, file)
    for name in changed:
        assert torch.equal(resumed.state_dict()[name], after[name])
