# mypy: disable-error-code="import-untyped"
"""The kernel that draws frames: interpreted, it gives the plain sampler's ids, and it compiles for every GPU."""

import os
import sys
import warnings
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
    """``fused.draw_frames`` in a process whose Triton interprets kernels, which is decided when Triton is imported."""
    with ProcessPoolExecutor(1, mp_context=get_context("fork"), initializer=forget_triton) as pool:
        yield lambda *args, **sampling: pool.submit(fused.draw_frames, *args, **sampling).result()


def forget_triton() -> None:
    """Let this process import Triton again, as an interpreter, which computes with infinities."""
    warnings.resetwarnings()
    os.environ["TRITON_INTERPRET"] = "1"
    for name in [*sys.modules]:
        if (name == fused.__name__ or name.split(".")[0] == "triton") and not name.startswith("triton._C"):
            del sys.modules[name]


@dataclass(frozen=True)
class Batch:
    """The arguments of ``draw_frames`` for one step."""

    logits: Tensor
    view: BatchView
    requests: RequestTable
    bias: Tensor
    sampling: dict[str, Tensor]
    ids: Ids = IDS

    def drawn_by(self, draw: Draw) -> Tensor:
        return draw(self.logits, self.view, self.requests, self.ids, self.bias, **self.sampling)


def batch_of(
    kinds: str,
    seed: int = 0,
    *,
    top_k: int = 20,
    temperature: float = 1.0,
    min_frames: int = 0,
    ids: Ids = IDS,
) -> Batch:
    """A batch with rows of text (t), frames (a) and guided frames (g), each g with a shadow (s) somewhere after it.

    Shadows belong to the guided rows in order. Steps, guidance scales and top-ks differ from row to row.
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
    sampling = {"top_k": top_ks.int(), "temperature": temperatures, "positions": torch.full((rows,), POSITION)}
    return Batch(logits, view, requests, bias, sampling, ids)


def kinds_of(pieces: list[str]) -> str:
    """The kinds of all rows: leaders and other rows first, then the shadows."""
    kinds = "".join(pieces)
    return kinds + "s" * kinds.count("g")


@given(
    st.lists(st.sampled_from("tag"), min_size=1, max_size=4).map(kinds_of).filter(lambda kinds: kinds.strip("t")),
    st.integers(0, 2**31),
    st.integers(1, 12),
    st.floats(0.05, 3),
    st.integers(0, 3),
)
@settings(max_examples=15)
def test_any_batch_gives_the_plain_samplers_frames(
    interpreted: Draw, kinds: str, seed: int, top_k: int, temperature: float, min_frames: int
) -> None:
    batch = batch_of(kinds, seed, top_k=top_k, temperature=temperature, min_frames=min_frames)
    assert batch.drawn_by(interpreted).equal(batch.drawn_by(draw_frames))


def test_the_released_sizes_give_the_plain_samplers_frames(interpreted: Draw) -> None:
    batch = batch_of("agas", 3, ids=SpeechLMConfig().ids)
    assert batch.drawn_by(interpreted).equal(batch.drawn_by(draw_frames))


def test_the_largest_top_k_may_exceed_the_number_of_codes(interpreted: Draw) -> None:
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
def test_a_logit_that_is_not_finite_is_treated_as_in_the_plain_sampler(
    value: float, top_k: int, interpreted: Draw
) -> None:
    batch = batch_of("aags", 2, top_k=top_k)
    batch.logits[:, 3 * SIZE + 7] = value
    batch.logits[1, -1] = value
    assert batch.drawn_by(interpreted).equal(batch.drawn_by(draw_frames))


def test_a_stream_with_few_candidates_gives_one_of_them(interpreted: Draw) -> None:
    batch = batch_of("aa", 4)
    batch.logits[:, 2 * SIZE : 3 * SIZE - 3] = NEVER
    frames = batch.drawn_by(interpreted)
    assert frames.equal(batch.drawn_by(draw_frames))
    assert (frames[:, 2] >= IDS.codec_begin + 3 * SIZE - 3).all()


def test_equal_logits_are_ranked_by_id_in_any_batch(interpreted: Draw) -> None:
    """Logits in bfloat16 are often equal; which of them are in the top-k must not depend on the other rows."""
    batch = batch_of("aaa", 6, top_k=12)
    logits = batch.logits.bfloat16().float()
    batch_frames = replace(batch, logits=logits).drawn_by(interpreted)
    for row in range(3):
        single = slice(row, row + 1)
        slots = batch.view.slots[single]
        single_batch = replace(
            batch,
            logits=logits[single],
            view=BatchView.of(batch.requests, slots, slots),
            sampling={name: value[single] for name, value in batch.sampling.items()},
        )
        assert single_batch.drawn_by(interpreted).equal(batch_frames[single])


def test_greedy_frames_are_the_first_of_the_largest(interpreted: Draw) -> None:
    batch = batch_of("aa", 7, top_k=1)
    batch.bias.zero_()
    batch.logits.copy_(batch.logits.round())
    codec = batch.logits[:, : STREAMS * SIZE].view(2, STREAMS, SIZE)
    batch.logits[:, -1] = NEVER
    expected = codec.argmax(dim=2) + torch.arange(STREAMS) * SIZE + IDS.codec_begin
    assert batch.drawn_by(interpreted).equal(expected)


class LaunchRecorder:
    """Stands in for the kernel and keeps the arguments of a launch."""

    def __init__(self) -> None:
        self.args: tuple[Any, ...] = ()
        self.constants: dict[str, Any] = {}

    def __getitem__(self, _grid: Any) -> Callable[..., None]:
        return self._launch

    def _launch(self, *args: Any, num_warps: int, enable_fp_fusion: bool, **constants: Any) -> None:
        self.args, self.constants = args, constants
        self.options = {"num_warps": num_warps, "enable_fp_fusion": enable_fp_fusion}


_POINTERS = {torch.float32: "*fp32", torch.int64: "*i64", torch.int32: "*i32"}


@pytest.mark.process
@pytest.mark.parametrize(
    ("architecture", "kinds"), [(80, "aa"), (89, "tags"), (90, "aa"), (90, "tags"), (100, "tags"), (120, "aa")]
)
def test_the_kernel_compiles_for_every_gpu(architecture: int, kinds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, kernel = LaunchRecorder(), fused._draw_frame
    monkeypatch.setattr(fused, "_draw_frame", recorder)
    batch_of(kinds, ids=SpeechLMConfig().ids).drawn_by(fused.draw_frames)
    constants = dict(recorder.constants)
    signature = {}
    for name, value in zip(kernel.arg_names, recorder.args, strict=False):
        if value is None:
            constants[name] = None
        signature[name] = _POINTERS[value.dtype] if isinstance(value, Tensor) else "i32"
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature=signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=recorder.options)
    assert compiled.asm["cubin"]
    assert "fma.rn.f32" not in compiled.asm["ptx"]  # it would round the guided logits differently
