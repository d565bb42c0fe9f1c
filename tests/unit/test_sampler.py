"""Sampling: its distribution, what it depends on, and what each phase may generate."""

import weakref
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import scipy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from sglang_speechlm.checkpoint import CheckpointSpec
from sglang_speechlm.config import Ids, SpeechLMConfig
from sglang_speechlm.model.slots import BatchView, RequestTable
from sglang_speechlm.options import gpu_memory
from sglang_speechlm.sampler import phases
from sglang_speechlm.sampler.draw import best, draw, gumbel_noise
from sglang_speechlm.sampler.phases import Draws, draw_frame, draw_text

IDS = CheckpointSpec().config().ids
NEVER = float("-inf")
IMPLAUSIBLE = 1e-4
"""The p-value below which a distribution counts as wrong; all seeds are fixed, so that no test is flaky."""


def logits_of(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


def seeds_of(count: int) -> Tensor:
    return torch.randint(-(2**63), 2**63 - 1, (count,), generator=torch.Generator().manual_seed(7))


def draws_of(seeds: Tensor, *, top_k: int | Tensor = 20, temperature: float = 1.0, step: int = 5) -> Draws:
    top_ks = torch.full_like(seeds, top_k) if isinstance(top_k, int) else top_k
    return Draws(
        top_k=top_ks,
        temperature=torch.full((len(seeds),), temperature),
        seed=seeds,
        step=torch.full_like(seeds, step),
        largest_top_k=int(top_ks.max()),
    )


def draw_from(logits: Tensor, seeds: Tensor, **options: Any) -> Tensor:
    """Draw indices of ``logits`` [C], one for each seed."""
    values, indices = best(logits, len(logits))
    settings = {"top_k": torch.tensor(len(logits)), "temperature": torch.tensor(1.0), "step": torch.tensor(0)} | options
    shape = (len(seeds), len(logits))
    return draw(
        values.expand(shape),
        indices.expand(shape),
        seed=seeds.unsqueeze(1),
        stream=torch.tensor(0),
        **settings,
    )


def assert_distributed(drawn: Tensor, probabilities: Tensor) -> None:
    """Chi-square test of drawn indices against their probabilities [C]; rare ones are pooled."""
    assert probabilities[drawn].min() > 0
    counts = torch.bincount(drawn, minlength=len(probabilities)).double()
    expected = probabilities.double() * len(drawn)
    rare = expected < 5
    observed, expected = (torch.cat([x[~rare], x[rare].sum().view(1)]) for x in (counts, expected))
    if expected[-1] < 5:
        observed, expected = (torch.cat([x[:-2], x[-2:].sum().view(1)]) for x in (observed, expected))
    assert scipy.stats.chisquare(observed, expected / expected.sum() * observed.sum()).pvalue > IMPLAUSIBLE


# One draw


@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.9])
def test_draws_follow_the_softmax_of_the_logits_over_the_temperature(temperature: float) -> None:
    logits = logits_of(30)
    drawn = draw_from(logits, seeds_of(20000), temperature=torch.tensor(temperature))
    assert_distributed(drawn, torch.softmax(logits / temperature, dim=0))


@pytest.mark.parametrize("top_k", [2, 7, 29, 30, 1000])
def test_only_the_top_k_are_drawn_with_their_probabilities(top_k: int) -> None:
    logits = logits_of(30)
    kept = logits.masked_fill(logits < logits.topk(min(top_k, 30)).values[-1], NEVER)
    assert_distributed(draw_from(logits, seeds_of(20000), top_k=torch.tensor(top_k)), torch.softmax(kept, dim=0))


def test_a_top_k_of_one_is_greedy_at_any_temperature() -> None:
    logits = logits_of(30)
    drawn = draw_from(logits, seeds_of(100), top_k=torch.tensor(1), temperature=torch.tensor(2.0))
    assert (drawn == logits.argmax()).all()


def test_successive_seeds_draw_independently() -> None:
    drawn = draw_from(torch.zeros(6), torch.arange(20001))
    assert_distributed(drawn, torch.full((6,), 1 / 6))
    table = torch.bincount(drawn[:-1] * 6 + drawn[1:], minlength=36).view(6, 6)
    assert scipy.stats.chi2_contingency(table).pvalue > IMPLAUSIBLE


def test_successive_steps_draw_independently() -> None:
    drawn = draw_from(torch.zeros(6), torch.tensor([3]).expand(20001), step=torch.arange(20001).unsqueeze(1))
    assert_distributed(drawn, torch.full((6,), 1 / 6))
    table = torch.bincount(drawn[:-1] * 6 + drawn[1:], minlength=36).view(6, 6)
    assert scipy.stats.chi2_contingency(table).pvalue > IMPLAUSIBLE


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = draw_from(probabilities.log(), seeds_of(5000), top_p=torch.tensor(0.7))
    assert_distributed(drawn, torch.tensor([0.625, 0.375, 0, 0]))


def test_min_p_keeps_ids_likely_enough_relative_to_the_best() -> None:
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    drawn = draw_from(probabilities.log(), seeds_of(5000), min_p=torch.tensor(0.25))
    assert_distributed(drawn, torch.tensor([0.5, 0.3, 0.15, 0]) / 0.95)


# Noise


def test_noise_is_standard_gumbel() -> None:
    zero = torch.tensor(0)
    for varied in range(4):
        arguments = [torch.arange(20000) if place == varied else zero for place in range(4)]
        assert scipy.stats.kstest(gumbel_noise(*arguments).numpy(), "gumbel_r").pvalue > IMPLAUSIBLE


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=4, max_size=4))
@settings(max_examples=200)
def test_noise_is_finite_for_any_integers(arguments: list[int]) -> None:
    assert gumbel_noise(*(torch.tensor(argument) for argument in arguments)).isfinite()


def test_all_64_bits_of_the_seed_matter() -> None:
    zero = torch.tensor(0)
    seeds = torch.tensor([0, *(1 << bit for bit in range(63)), -(2**63)])
    assert len(gumbel_noise(seeds, zero, zero, zero).unique()) == 65


def test_noise_differs_by_step_stream_and_id() -> None:
    grid = torch.arange(40)
    noise = gumbel_noise(torch.tensor(5), grid.view(-1, 1, 1), grid[:9].view(1, -1, 1), grid.view(1, 1, -1))
    assert len(noise.unique()) == noise.numel()


# The phases


@given(st.integers(1, 12), st.integers(1, 900), st.integers(0, 2**31))
@settings(max_examples=40)
def test_a_row_is_drawn_the_same_alone_and_in_any_batch(rows: int, top_k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    text, codec, eos = logits_of(rows, IDS.vocab_size, seed=seed), logits_of(rows, 8, 65, seed=seed), logits_of(rows)
    top_ks = torch.randint(1, top_k + 1, (rows,), generator=generator)
    seeds = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator)
    batch_draws = draws_of(seeds, top_k=top_ks)
    texts = draw_text(text, IDS, batch_draws)
    frames = draw_frame(codec, eos, IDS, torch.zeros_like(seeds), batch_draws)
    for row in range(rows):
        single = slice(row, row + 1)
        alone = draws_of(seeds[single], top_k=top_ks[single])
        assert draw_text(text[single], IDS, alone) == texts[row]
        assert draw_frame(codec[single], eos[single], IDS, torch.zeros(1, dtype=torch.int64), alone).equal(
            frames[single]
        )


def test_greedy_and_sampling_rows_share_a_batch() -> None:
    logits = logits_of(1, IDS.vocab_size).expand(300, -1)
    top_k = torch.where(torch.arange(300) % 2 == 0, 1, 50)
    drawn = draw_text(logits, IDS, draws_of(seeds_of(300), top_k=top_k))
    assert len(drawn[::2].unique()) == 1
    assert len(drawn[1::2].unique()) > 5


@pytest.mark.parametrize("top_k", [1, 20, 10000])
def test_text_is_drawn_from_the_text_range_eot_and_eos(top_k: int) -> None:
    logits = logits_of(500, IDS.vocab_size)
    logits[:, [IDS.pad, IDS.bos, IDS.assistant, IDS.audio, IDS.codec_begin, IDS.vocab_size - 1]] = 50
    logits[::5, IDS.eot] = 40
    logits[1::5, IDS.eos] = 40
    drawn = draw_text(logits, IDS, draws_of(seeds_of(500), top_k=top_k))
    assert (drawn[::5] == IDS.eot).all()
    assert (drawn[1::5] == IDS.eos).all()
    others = drawn[torch.arange(500) % 5 > 1]
    assert ((others >= IDS.text_begin) & (others < IDS.text_end) | (others == IDS.eot) | (others == IDS.eos)).all()


@pytest.mark.parametrize("top_k", [1, 2, 20])
def test_text_does_not_end_at_its_first_id(top_k: int) -> None:
    logits = logits_of(200, IDS.vocab_size)
    logits[:, [IDS.eos, IDS.eot]] = 50
    first = draw_text(logits, IDS, draws_of(seeds_of(200), top_k=top_k, step=0))
    assert (first >= IDS.text_begin).all()
    assert (draw_text(logits, IDS, draws_of(seeds_of(200), top_k=top_k, step=1)) < IDS.text_begin).all()


def test_the_top_k_of_text_includes_eot_and_eos() -> None:
    logits = torch.full((IDS.vocab_size,), NEVER)
    allowed = torch.tensor([IDS.eos, IDS.eot, IDS.text_begin + 4, IDS.text_begin + 9])
    logits[allowed] = torch.tensor([1.0, 2.0, 1.5, 0.5])
    drawn = draw_text(logits.expand(5000, -1), IDS, draws_of(seeds_of(5000), top_k=3))
    probabilities = torch.zeros(IDS.vocab_size)
    probabilities[allowed[:3]] = torch.softmax(torch.tensor([1.0, 2.0, 1.5]), dim=0)
    assert_distributed(drawn, probabilities)


@pytest.mark.parametrize("top_k", [1, 20, 10000])
def test_each_stream_is_drawn_from_its_own_range(top_k: int) -> None:
    frames = draw_frame(
        logits_of(400, 8, 65),
        logits_of(400),
        IDS,
        torch.zeros(400, dtype=torch.int64),
        draws_of(seeds_of(400), top_k=top_k),
    )
    spoken = frames[frames[:, 0] != IDS.eos]
    starts = torch.tensor([IDS.codec_pad(stream) for stream in range(8)])
    assert ((spoken >= starts) & (spoken < starts + IDS.codec_layer_size)).all()


def test_streams_follow_their_own_softmax_independently() -> None:
    count = 20000
    codec, never = logits_of(1, 8, 65), torch.full((count,), NEVER)
    frames = draw_frame(
        codec.expand(count, -1, -1),
        never,
        IDS,
        torch.zeros(count, dtype=torch.int64),
        draws_of(seeds_of(count), top_k=6),
    )
    codes = frames - torch.tensor([IDS.codec_pad(stream) for stream in range(8)])
    ranks = []
    for stream in range(8):
        values, indices = codec[0, stream].topk(6)
        probabilities = torch.zeros(65).scatter(0, indices, torch.softmax(values, dim=0))
        assert_distributed(codes[:, stream], probabilities)
        ranks.append((codes[:, stream, None] == indices).int().argmax(dim=1))
    for first, second in pairwise(ranks):
        table = torch.bincount(first * 6 + second, minlength=36).view(6, 6)
        assert scipy.stats.chi2_contingency(table).pvalue > IMPLAUSIBLE


def test_eos_is_drawn_only_when_allowed_and_empties_the_other_streams() -> None:
    eos = torch.full((4,), 50.0)
    min_frames = torch.tensor([0, 5, 6, 100])
    frames = draw_frame(logits_of(4, 8, 65), eos, IDS, min_frames, draws_of(seeds_of(4), step=5))
    assert (frames[:, 0] == IDS.eos).tolist() == [True, True, False, False]
    assert (frames[:2, 1:] == 0).all()
    assert (frames[2:, 1:] >= IDS.codec_begin).all()


def test_only_stream_0_can_end_the_audio() -> None:
    """An eos far above the codes of streams 1.. does not take the place of one of their candidates."""
    codec = logits_of(1, 8, 65).expand(300, -1, -1).clone()
    codec[:, 0] += 100
    frames = draw_frame(
        codec, torch.full((300,), 50.0), IDS, torch.zeros(300, dtype=torch.int64), draws_of(seeds_of(300))
    )
    assert (frames >= IDS.codec_begin).all()


class TensorMemory(TorchDispatchMode):
    """The bytes of all tensors that are created: the total, and the maximum that exists at once."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.created = self.peak = self._bytes = 0
        self._owners: Counter[int] = Counter()

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple) else (output,):
            if isinstance(tensor, Tensor):
                self._allocate(tensor)
        return output

    def _allocate(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if tensor._base is None and key not in self._owners:
            self.created += size
            self._bytes += size
            self.peak = max(self.peak, self._bytes)
        elif key not in self._owners:
            return  # a view of an argument
        self._owners[key] += 1
        weakref.finalize(tensor, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._owners[key] -= 1
        if not self._owners[key]:
            del self._owners[key]
            self._bytes -= size


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that is created."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        for tensor in output if isinstance(output, tuple) else (output,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return output


def test_a_draw_without_a_top_k_takes_no_more_memory_for_a_larger_batch() -> None:
    vocabulary, rows = 160_392, 256
    ids = SpeechLMConfig().ids
    draws = draws_of(seeds_of(rows), top_k=1 << 30)
    fields: dict[str, Any] = {
        name: value.to("meta") for name, value in vars(draws).items() if isinstance(value, Tensor)
    }
    logits = torch.empty(rows, vocabulary, device="meta")
    with LargestTensor() as largest:
        draw_text(logits, ids, replace(draws, **fields))
    assert 70 * largest.elements <= gpu_memory._DRAW_BYTES  # about 70 bytes for each candidate


def text_rows(top_ks: Tensor) -> BatchView:
    """The view of a batch of texts in slots 1, 2, ..."""
    table = RequestTable(len(top_ks) + 1, 8, "cpu")
    table.top_k[1:] = top_ks
    slots = torch.arange(1, len(top_ks) + 1)
    return BatchView.of(table, slots, slots)


def draw_texts(logits: Tensor, ids: Ids, view: BatchView, draws: Draws) -> list[Tensor]:
    """The text ids of a batch, in the order of its groups."""
    drawn = []
    for group in view.text_draws:
        rows = slice(None) if group.rows is None else group.rows.to(logits.device)
        group_draws = replace(draws.of(rows), smallest_top_k=group.smallest_top_k, largest_top_k=group.largest_top_k)
        drawn.append(draw_text(logits[rows].float(), ids, group_draws))
    return drawn


@pytest.mark.parametrize("wide", [1 << 30, 5000])
def test_rows_without_a_top_k_do_not_make_other_rows_draw_from_the_vocabulary(wide: int) -> None:
    rows, vocabulary = 256, 160_392
    top_ks = torch.full((rows,), 20)
    top_ks[[3, 100]] = wide
    draws = draws_of(seeds_of(rows), top_k=top_ks)
    fields: dict[str, Any] = {
        name: value.to("meta") for name, value in vars(draws).items() if isinstance(value, Tensor)
    }
    view, draws = text_rows(top_ks), replace(draws, **fields)
    logits = torch.empty(rows, vocabulary, device="meta")
    with TensorMemory() as memory:
        draw_texts(logits, SpeechLMConfig().ids, view, draws)
    assert memory.peak <= 1.25 * logits.nbytes  # a copy of the others' logits, and a draw of two rows
    assert memory.created <= 1.5 * logits.nbytes


def test_groups_of_a_batch_are_drawn_like_single_rows() -> None:
    top_ks = torch.tensor([1, 20, 1 << 30, 5, 1025, 1024, 1 << 30, 3])
    view = text_rows(top_ks)
    assert [group.rows.tolist() for group in view.text_draws if group.rows is not None] == [[0, 1, 3, 5, 7], [2, 4, 6]]
    logits, draws = logits_of(8, IDS.codec_end), draws_of(seeds_of(8), top_k=top_ks)
    drawn = torch.cat(draw_texts(logits, IDS, view, draws))
    order = torch.cat([group.rows for group in view.text_draws if group.rows is not None])
    alone = [draw_text(logits[row : row + 1], IDS, draws.of(slice(row, row + 1))) for row in order.tolist()]
    assert drawn.equal(torch.cat(alone))


@given(st.integers(1, 6), st.integers(0, 2**31), st.booleans())
@settings(max_examples=40)
def test_drawing_from_all_candidates_gives_the_same_without_sorting(rows: int, seed: int, first: bool) -> None:
    logits = logits_of(rows, IDS.codec_end, seed=seed)
    draws = draws_of(seeds_of(rows) + seed, top_k=1 << 30, step=0 if first else 5)
    unsorted = draw_text(logits, IDS, replace(draws, smallest_top_k=1 << 30))
    assert unsorted.equal(draw_text(logits, IDS, replace(draws, smallest_top_k=1)))


def test_a_batch_drawn_in_pieces_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, draws = logits_of(40, IDS.codec_end), draws_of(seeds_of(40), top_k=1 << 30)
    whole = draw_text(logits, IDS, draws)
    monkeypatch.setattr(phases, "_PIECE_CANDIDATES", 3000)
    assert draw_text(logits, IDS, draws).equal(whole)
