# mypy: disable-error-code="import-untyped"
"""The kernel that draws frames: its ids, interpreted, are the plain sampler's, and it compiles for every card."""

from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import pytest
import torch
import triton
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sglang_speechlm.checkpoint import CheckpointSpec
from sglang_speechlm.config import Ids, SpeechLMConfig
from sglang_speechlm.model.slots import BatchView, RequestEntry, RequestTable
from sglang_speechlm.sampler import fused
from sglang_speechlm.sampler.frames import draw_frames

IDS = CheckpointSpec().config().ids
STREAMS, SIZE = IDS.num_stream, IDS.codec_layer_size
NEVER = float("-inf")
POSITION = 40

Draw = Callable[..., Tensor]


@pytest.fixture(scope="module")
def interpreted() -> Iterator[Draw]:
    """``fused.draw_frames`` in a process whose Triton interprets kernels: it decides so when it is imported."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TRITON_INTERPRET", "1")
        environment.setenv("OMP_NUM_THREADS", "1")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(int).result()  # it is started with the first task
            yield lambda *args, **how: pool.submit(fused.draw_frames, *args, **how).result()


@dataclass(frozen=True)
class Batch:
    """A step: the arguments of ``draw_frames``."""

    logits: Tensor
    view: BatchView
    requests: RequestTable
    bias: Tensor
    how: dict[str, Tensor]
    ids: Ids = IDS

    def drawn_by(self, draw: Draw) -> Tensor:
        return draw(self.logits, self.view, self.requests, self.ids, self.bias, **self.how)


def batch_of(
    kinds: str,
    seed: int = 0,
    *,
    top_k: int = 20,
    temperature: float = 1.0,
    min_frames: int = 0,
    ids: Ids = IDS,
) -> Batch:
    """Rows of text (t), of frames (a) and of guided frames (g), the latter with a shadow somewhere behind it (s).

    Shadows belong to the guided rows in their order. Steps, guidance scales and top-ks differ from row to row.
    """
    rows, random = len(kinds), torch.Generator().manual_seed(seed)
    requests = RequestTable(rows + 1, ids.num_stream, "cpu")
    slots = torch.randperm(rows, generator=random) + 1
    leaders = [int(slots[row]) for row, kind in enumerate(kinds) if kind == "g"]
    top_ks = torch.randint(max(top_k // 2, 1), top_k + 1, (rows,), generator=random)
    seeds = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=random)
    requests.enter(
        [
            RequestEntry(
                slot=int(slots[row]),
                audio=kind != "t",
                prompt_length=POSITION + 1 - int(torch.randint(0, 4, (), generator=random)),
                min_frames=min_frames,
                top_k=int(top_ks[row]),
                seed=int(seeds[row]),
                cfg=1.0 + 0.7 * row if kind == "g" else 1.0,
                leader=leaders.pop(0) if kind == "s" else None,
            )
            for row, kind in enumerate(kinds)
        ]
    )
    view = BatchView.of(requests, slots, slots)
    codec = ids.num_stream * ids.codec_layer_size
    width = ids.codec_end if "t" in kinds else codec + 1
    logits = 2 * torch.randn(rows, width, generator=random)
    bias = torch.randn(ids.num_stream, ids.codec_layer_size, generator=random)
    bias[0] = 0
    temperatures = temperature * (0.5 + torch.rand(rows, generator=random))
    how = {"top_k": top_ks.int(), "temperature": temperatures, "positions": torch.full((rows,), POSITION)}
    return Batch(logits, view, requests, bias, how, ids)


def kinds_of(pieces: list[str]) -> str:
    """All leaders and other rows, then the shadows."""
    kinds = "".join(pieces)
    return kinds + "s" * kinds.count("g")


@given(
    st.lists(st.sampled_from("tag"), min_size=1, max_size=4).map(kinds_of).filter(lambda kinds: kinds.strip("t")),
    st.integers(0, 2**31),
    st.integers(1, 12),
    st.floats(0.05, 3),
    st.integers(0, 3),
)
@settings(max_examples=25)
def test_any_batch_draws_the_plain_samplers_frames(
    interpreted: Draw, kinds: str, seed: int, top_k: int, temperature: float, min_frames: int
) -> None:
    batch = batch_of(kinds, seed, top_k=top_k, temperature=temperature, min_frames=min_frames)
    assert batch.drawn_by(interpreted).equal(batch.drawn_by(draw_frames))


def test_the_released_sizes_draw_the_plain_samplers_frames(interpreted: Draw) -> None:
    batch = batch_of("agas", 3, ids=SpeechLMConfig().ids)
    assert batch.drawn_by(interpreted).equal(batch.drawn_by(draw_frames))


def test_the_largest_top_k_may_be_more_than_there_are_codes(interpreted: Draw) -> None:
    batch = batch_of("aga" + "s", 5, top_k=fused.MOST_CANDIDATES, ids=replace(IDS, codec_layer_size=17))
    assert batch.drawn_by(interpreted).equal(batch.drawn_by(draw_frames))


@pytest.mark.parametrize("min_frames", [0, 100])
def test_eos_ends_a_frame_once_it_is_allowed(min_frames: int, interpreted: Draw) -> None:
    batch = batch_of("aags", 1, min_frames=min_frames)
    batch.logits[:, -1] = 100
    frames = batch.drawn_by(interpreted)
    assert frames.equal(batch.drawn_by(draw_frames))
    assert bool((frames[:, 0] == IDS.eos).all()) == (min_frames == 0)
    assert bool((frames[:, 1:] == 0).all()) == (min_frames == 0)


@pytest.mark.parametrize("value", [float("nan"), -float("nan"), float("inf"), NEVER])
@pytest.mark.parametrize("top_k", [1, 20])
def test_a_logit_that_is_not_finite_counts_as_in_the_plain_sampler(value: float, top_k: int, interpreted: Draw) -> None:
    batch = batch_of("aags", 2, top_k=top_k)
    batch.logits[:, 3 * SIZE + 7] = value
    batch.logits[1, -1] = value
    assert batch.drawn_by(interpreted).equal(batch.drawn_by(draw_frames))


def test_a_stream_with_few_candidates_draws_one_of_them(interpreted: Draw) -> None:
    batch = batch_of("aa", 4)
    batch.logits[:, 2 * SIZE : 3 * SIZE - 3] = NEVER
    frames = batch.drawn_by(interpreted)
    assert frames.equal(batch.drawn_by(draw_frames))
    assert (frames[:, 2] >= IDS.codec_begin + 3 * SIZE - 3).all()


def test_equal_logits_rank_by_their_id_in_any_batch(interpreted: Draw) -> None:
    """Logits in bfloat16 are often equal; which of them are among the top-k may not depend on the other rows."""
    batch = batch_of("aaa", 6, top_k=12)
    logits = batch.logits.bfloat16().float()
    together = replace(batch, logits=logits).drawn_by(interpreted)
    for row in range(3):
        one = slice(row, row + 1)
        slots = batch.view.slots[one]
        alone = replace(
            batch,
            logits=logits[one],
            view=BatchView.of(batch.requests, slots, slots),
            how={name: value[one] for name, value in batch.how.items()},
        )
        assert alone.drawn_by(interpreted).equal(together[one])


def test_greedy_frames_are_the_first_of_the_largest(interpreted: Draw) -> None:
    batch = batch_of("aa", 7, top_k=1)
    batch.bias.zero_()
    batch.logits.copy_(batch.logits.round())
    codec = batch.logits[:, : STREAMS * SIZE].view(2, STREAMS, SIZE)
    batch.logits[:, -1] = NEVER
    expected = codec.argmax(dim=2) + torch.arange(STREAMS) * SIZE + IDS.codec_begin
    assert batch.drawn_by(interpreted).equal(expected)


class Launches:
    """Takes a launch's arguments in the kernel's place."""

    def __init__(self) -> None:
        self.args: tuple[Any, ...] = ()
        self.constants: dict[str, Any] = {}

    def __getitem__(self, _grid: Any) -> Callable[..., None]:
        return self._launch

    def _launch(self, *args: Any, num_warps: int, enable_fp_fusion: bool, **constants: Any) -> None:
        self.args, self.constants = args, constants
        self.options = {"num_warps": num_warps, "enable_fp_fusion": enable_fp_fusion}


_POINTERS = {torch.float32: "*fp32", torch.int64: "*i64", torch.int32: "*i32"}


@pytest.mark.parametrize(
    ("architecture", "kinds"), [(80, "aa"), (89, "tags"), (90, "aa"), (90, "tags"), (100, "tags"), (120, "aa")]
)
def test_the_kernel_compiles_for_every_card(architecture: int, kinds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launches, kernel = Launches(), fused._draw_frame
    monkeypatch.setattr(fused, "_draw_frame", launches)
    batch_of(kinds, ids=SpeechLMConfig().ids).drawn_by(fused.draw_frames)
    constants = dict(launches.constants)
    signature = {}
    for name, value in zip(kernel.arg_names, launches.args, strict=False):
        if value is None:
            constants[name] = None
        signature[name] = _POINTERS[value.dtype] if isinstance(value, Tensor) else "i32"
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=launches.options)
    assert compiled.asm["cubin"]
    assert "fma.rn.f32" not in compiled.asm["ptx"]  # it would round the guided logits differently
