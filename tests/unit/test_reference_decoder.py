"""The reference decoder, compared with recomputation without a cache and with expectations made by hand."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import Answer, Message, Reference, Request
from reference.decoder import guide
from reference.prompt import Row, control
from reference.tiny import tiny_config, tiny_reference, tiny_tensors, tiny_tokenizer
from torch import Tensor

EOS, EOT, ASSISTANT, TEXT, AUDIO = 2, 3, 6, 7, 8
ROUNDING = 1e-4


def question(number: int) -> list[Message]:
    return [("system", [("text", "Speak.")]), ("user", [("text", f"question {number}")])]


@pytest.fixture(scope="module")
def references() -> list[Reference]:
    return [tiny_reference(seed) for seed in (0, 1, 4, 6)]


def frames_of(answer: Answer) -> list[list[int]]:
    assert answer.frames is not None
    return answer.frames.tolist()


def hidden_from_scratch(reference: Reference, rows: Sequence[Row]) -> Tensor:
    with torch.inference_mode():
        output = reference.backbone(inputs_embeds=reference.embed(rows)[None], use_cache=False)
    return output.last_hidden_state[0, -1]


def controls(reference: Reference, *tokens: int) -> list[Row]:
    return [control(token, reference.ids) for token in tokens]


def text_rows(reference: Reference, request: Request) -> list[Row]:
    return [*reference.prompt(request.messages), *controls(reference, TEXT)]


def test_text_equals_a_recomputation_at_every_step(references: list[Reference]) -> None:
    reference = references[0]
    request = Request(question(0), text_max_tokens=25)
    answer = reference.answer(request)
    assert answer.margin > ROUNDING
    rows = text_rows(reference, request)
    ids = reference.ids
    for step, token in enumerate(answer.text_ids):
        logits = reference.lm_head @ hidden_from_scratch(reference, rows)
        allowed = torch.full_like(logits, -torch.inf)
        allowed[ids.text_begin : ids.text_end] = 0
        if step > 0:
            allowed[[EOS, EOT]] = 0
        assert int((logits + allowed).argmax()) == token
        rows += controls(reference, token)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_frames_equal_a_recomputation_at_every_step(references: list[Reference], cfg: float) -> None:
    reference = references[0]
    request = Request(question(0), speak=True, max_tokens=60, cfg=cfg)
    answer = reference.answer(request)
    assert len(frames_of(answer)) >= 8
    assert answer.margin > ROUNDING
    before = [*text_rows(reference, request), *controls(reference, *answer.text_ids, ASSISTANT)]
    pads = [[0] * 8 for _ in before]
    after = controls(reference, AUDIO)
    begin, size = reference.ids.codec_begin, reference.ids.codec_layer_size
    expected = [*frames_of(answer), *([[EOS]] if answer.end == "stop" else [])]
    for step, frame in enumerate(expected):
        conditional = hidden_from_scratch(reference, [*before, *after])
        unconditional = hidden_from_scratch(reference, [*pads, *after])
        for stream, token in enumerate(frame):
            bias = 0 if stream == 0 else reference.stream_emb[stream]
            logits = reference.lm_head @ (conditional + bias) * cfg
            logits += reference.lm_head @ (unconditional + bias) * (1 - cfg)
            allowed = torch.full_like(logits, -torch.inf)
            allowed[begin + size * stream : begin + size * (stream + 1)] = 0
            if stream == 0 and step >= 8:
                allowed[EOS] = 0
            assert int((logits + allowed).argmax()) == token
        after.append(frame)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("index", range(4))
def test_guesses_do_not_change_the_answer(references: list[Reference], index: int, cfg: float) -> None:
    """The first guesses are right, and wrong ones follow."""
    reference = references[index]
    request = Request(question(0), speak=True, max_tokens=60, cfg=cfg)
    answer = reference.answer(request)
    assert answer.codes is not None
    wrong_id = reference.ids.text_begin + 7
    for correct in (0, 1, 9, 10**6):
        codes = np.concatenate([answer.codes[:correct], (answer.codes[correct:] + 1) % 3])
        guessed = reference.answer(request, [*answer.text_ids[:correct], *[wrong_id] * 5], codes)
        assert guessed.text_ids == answer.text_ids
        np.testing.assert_array_equal(guessed.frames, answer.frames)
        assert guessed.end == answer.end
        assert guessed.margin == pytest.approx(answer.margin, abs=ROUNDING)


def test_a_guidance_scale_of_one_is_no_guidance() -> None:
    conditional, unconditional = torch.randn(8, 20), torch.randn(8, 20)
    assert torch.equal(guide(conditional, unconditional, 1.0), conditional)


def test_guidance_changes_the_frames_and_not_the_text(references: list[Reference]) -> None:
    request = Request(question(1), speak=True, max_tokens=60)
    plain, guided = (references[0].answer(replace(request, cfg=cfg)) for cfg in (1.0, 3.0))
    assert plain.text_ids == guided.text_ids
    assert frames_of(plain) != frames_of(guided)


def test_an_empty_cell_adds_nothing_but_pad_in_the_first_stream_does(references: list[Reference]) -> None:
    reference = references[0]
    table = reference.embed_tokens
    embeddings = reference.embed([[0] * 8, [5, 0, 600, 0, 0, 0, 0, 610]])
    assert torch.equal(embeddings[0], table[0])
    torch.testing.assert_close(embeddings[1], table[5] + table[600] + table[610])


def test_the_first_row_of_stream_emb_counts_as_zero() -> None:
    config = tiny_config()
    tensors = tiny_tensors(config)
    answers = []
    for value in (0.0, 100.0):
        tensors["stream_emb.weight"][0] = value
        reference = Reference(config, tensors, tiny_tokenizer(), Path())
        answers.append(frames_of(reference.answer(Request(question(0), speak=True, max_tokens=30))))
    assert answers[0] == answers[1]


def test_text_never_starts_with_eot_or_eos(references: list[Reference]) -> None:
    reference = references[0]
    hidden = reference.lm_head[EOT] + reference.lm_head[EOS]
    assert reference.text_candidates[reference.text_logits(hidden, 1).argmax()] in (EOT, EOS)
    assert reference.text_candidates[reference.text_logits(hidden, 0).argmax()] >= reference.ids.text_begin


def test_audio_follows_the_id_that_ended_the_text(references: list[Reference]) -> None:
    ends = set()
    for reference in references:
        request = Request(question(0), speak=True, max_tokens=60)
        answer = reference.answer(request)
        if answer.text_end is None:
            continue
        ends.add(answer.text_end)
        before = [*text_rows(reference, request), *controls(reference, *answer.text_ids, ASSISTANT)]
        assert before[-2] == [answer.text_end, 0, 0, 0, 0, 0, 0, 0]
        assert frames_of(answer) == reference.generate_audio(before, 60 - len(answer.text_ids)).frames
    assert ends == {EOT, EOS}


def test_audio_follows_truncated_text_without_an_eot(references: list[Reference]) -> None:
    reference = references[3]
    request = Request(question(0), speak=True, text_max_tokens=2)
    answer = reference.answer(request)
    assert len(answer.text_ids) == 2
    assert answer.text_end is None
    cut = [*text_rows(reference, request), *controls(reference, *answer.text_ids)]
    without_eot, with_eot = (
        reference.generate_audio([*cut, *controls(reference, *ending)], 62).frames
        for ending in ([ASSISTANT], [EOT, ASSISTANT])
    )
    assert frames_of(answer) == without_eot
    assert frames_of(answer) != with_eot


def test_text_that_uses_the_whole_budget_leaves_no_audio(references: list[Reference]) -> None:
    answer = references[3].answer(Request(question(0), speak=True, max_tokens=2))
    assert (len(answer.text_ids), answer.end, answer.frames, answer.codes) == (2, "length", None, None)


def test_both_phases_share_one_budget_and_the_eos_frame_counts(references: list[Reference]) -> None:
    reference = references[3]
    complete = reference.answer(Request(question(0), speak=True, max_tokens=1000))
    assert complete.end == "stop"
    needed = len(complete.text_ids) + len(frames_of(complete)) + 1
    assert reference.answer(Request(question(0), speak=True, max_tokens=needed)).end == "stop"
    short = reference.answer(Request(question(0), speak=True, max_tokens=needed - 1))
    assert short.end == "length"
    assert frames_of(short) == frames_of(complete)


def test_audio_max_frames_bounds_the_frames(references: list[Reference]) -> None:
    answer = references[3].answer(Request(question(0), speak=True, max_tokens=1000, audio_max_frames=9))
    assert answer.codes is not None
    assert (len(frames_of(answer)), len(answer.codes), answer.end) == (9, 2, "length")


def test_no_eos_before_audio_min_frames(references: list[Reference]) -> None:
    reference = references[3]
    lengths = {}
    for min_frames in (1, None, 30):
        request = Request(question(0), speak=True, max_tokens=1000, audio_min_frames=min_frames)
        lengths[min_frames] = len(frames_of(reference.answer(request)))
    assert lengths[None] >= 8
    assert lengths[30] >= 30
    logits = torch.zeros(8, reference.audio_candidates.shape[1])
    assert reference.mask_audio(logits, 7, 8)[0, 0] == -torch.inf
    assert reference.mask_audio(logits, 8, 8)[0, 0] == 0
    assert (reference.mask_audio(logits, 8, 8)[1:, 0] == -torch.inf).all()


def test_given_text_is_a_segment_closed_by_eot_and_costs_no_budget(references: list[Reference]) -> None:
    reference = references[1]
    request = Request(question(0), speak=True, max_tokens=20, text="Hi!")
    answer = reference.answer(request)
    assert answer.text_ids == [*reference.encode("Hi!"), EOT]
    before = [*text_rows(reference, request), *controls(reference, *answer.text_ids, ASSISTANT)]
    assert frames_of(answer) == reference.generate_audio(before, 20).frames


def test_a_stop_id_ends_the_text_and_is_not_content(references: list[Reference]) -> None:
    reference = references[3]
    unstopped = reference.answer(Request(question(0)))
    stop = unstopped.text_ids[2]
    answer = reference.answer(Request(question(0), stop_token_ids=(stop,)))
    length = unstopped.text_ids.index(stop) + 1
    assert answer.text_ids == unstopped.text_ids[:length]
    assert answer.content_ids == unstopped.text_ids[: length - 1]
    assert (answer.text_end, answer.end) == (stop, "stop")


@pytest.mark.parametrize("cfg", [1.0, 2.0])
def test_a_greedy_answer_has_rank_zero_and_the_smallest_gap_as_margin(references: list[Reference], cfg: float) -> None:
    for reference in references:
        request = Request(question(0), speak=True, max_tokens=100, text_max_tokens=30, cfg=cfg)
        answer = reference.answer(request)
        assert answer.margin > ROUNDING
        forced = reference.teacher_forced_logits(request, answer.text_ids, answer.frames)
        assert forced.audio_logits is not None
        assert forced.audio_ranks is not None
        assert forced.audio_regrets is not None
        assert not forced.text_ranks.any()
        assert not forced.audio_ranks.any()
        assert not forced.text_regrets.any()
        assert not forced.audio_regrets.any()
        decisions = [*forced.text_logits, *forced.audio_logits[:-1].flatten(0, 1)]
        if answer.end == "stop":
            assert forced.eos_rank == 0
            decisions.append(forced.audio_logits[-1, 0])
        gaps = [float(-logits.topk(2).values.diff()) for logits in decisions]
        assert min(gaps) == pytest.approx(answer.margin, abs=ROUNDING)


def test_a_near_tie_at_the_last_eos_counts_for_the_margin() -> None:
    reference = tiny_reference()
    request = Request(question(0), speak=True, max_tokens=200, text="a")
    answer = reference.answer(request)
    assert answer.end == "stop"
    rows = [*text_rows(reference, request), *controls(reference, *answer.text_ids, ASSISTANT, AUDIO)]
    hidden = hidden_from_scratch(reference, [*rows, *frames_of(answer)])
    best = reference.mask_audio(reference.audio_logits(hidden), 200, 8)[0].topk(2).values
    gap = float(best[0] - best[1])
    reference.lm_head[EOS] -= (gap - 2e-3) * hidden / hidden.square().sum()
    nearly_tied = reference.answer(request)
    assert frames_of(nearly_tied) == frames_of(answer)
    assert answer.margin > 4e-3
    assert nearly_tied.margin == pytest.approx(2e-3, abs=ROUNDING)


def test_a_replaced_id_has_the_rank_and_regret_of_its_logit(references: list[Reference]) -> None:
    reference = references[3]
    request = Request(question(0), speak=True, max_tokens=60)
    answer = reference.answer(request)
    greedy = reference.teacher_forced_logits(request, answer.text_ids, answer.frames)
    assert greedy.audio_logits is not None
    last, stream = len(frames_of(answer)) - 1, 5
    logits = greedy.audio_logits[last, stream]
    third = int(logits.argsort(descending=True)[2])
    frames = np.array(frames_of(answer))
    frames[last, stream] = int(reference.audio_candidates[stream, third])
    forced = reference.teacher_forced_logits(request, answer.text_ids, frames)
    assert forced.audio_ranks is not None
    assert forced.audio_regrets is not None
    assert forced.audio_ranks[last, stream] == 2
    assert float(forced.audio_regrets[last, stream]) == pytest.approx(float(logits.max() - logits[third]), abs=ROUNDING)


def test_an_id_of_another_stream_is_refused(references: list[Reference]) -> None:
    request = Request(question(0), speak=True, text="a")
    frames = np.full((1, 8), references[0].ids.codec_begin)
    with pytest.raises(ValueError, match="not candidates of their stream"):
        references[0].teacher_forced_logits(request, [], frames)


def test_an_unexpected_tensor_is_refused() -> None:
    config = tiny_config()
    with pytest.raises(ValueError, match="surplus"):
        Reference(config, tiny_tensors(config) | {"surplus": torch.zeros(1)}, tiny_tokenizer(), Path())
