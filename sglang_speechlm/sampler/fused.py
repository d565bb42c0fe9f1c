# ruff: noqa: ANN001, ANN202 (Triton compiles the kernels for the types of their arguments)
# mypy: disable-error-code="import-untyped, no-untyped-def"
"""The draw of a batch's frames in one Triton kernel: the ids of ``phases.draw_frame``, without its dozens of launches.

Among equal logits the lower id ranks first, as in ``torch.max``; ``torch.topk`` leaves their order open. The noise is
the same function of the same integers, so the ids are the same except for the rounding of the logarithm.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from sglang_speechlm.config import Ids
from sglang_speechlm.model.slots import BatchView, RequestTable
from sglang_speechlm.sampler import draw

MOST_CANDIDATES = 64
"""The largest top-k: the kernel finds a row's candidates one after the other."""

_WARPS = 8

_SEED, _STEP, _STREAM, _ID = (tl.constexpr(weight) for weight in (draw.SEED, draw.STEP, draw.STREAM, draw.ID))
_FIRST, _SECOND = tl.constexpr(draw.FIRST), tl.constexpr(draw.SECOND)
_LOW_31 = tl.constexpr((1 << 31) - 1)
_NO_CANDIDATE = tl.constexpr(-(1 << 63))


def draw_frames(
    logits: torch.Tensor,
    view: BatchView,
    requests: RequestTable,
    ids: Ids,
    codec_bias: torch.Tensor,
    *,
    top_k: torch.Tensor,
    temperature: torch.Tensor,
    positions: torch.Tensor,
) -> torch.Tensor:
    """Draw the frames of all rows that draw one; their shadows get the same frames.

    Args:
        logits: float [N, vocab_size], or [N, num_stream * codec_layer_size + 1] (the codec slice, then eos).
        view: of N rows; no row that draws a frame has a top-k above ``MOST_CANDIDATES``.
        codec_bias: float32 [num_stream, codec_layer_size].
        top_k: int [N]; 1 is greedy.
        temperature: float32 [N], above 0.
        positions: int64 [N], the newest position of each row.

    Returns:
        int64 [N, num_stream]: vocabulary ids; zeros for text rows.
    """
    streams, size = codec_bias.shape
    compact = logits.shape[1] == streams * size + 1
    frames = torch.zeros(len(logits), streams, dtype=torch.int64, device=logits.device)
    _draw_frame[(len(logits) if view.audio is None else len(view.audio),)](
        logits,
        logits.stride(0),
        0 if compact else ids.codec_begin,
        streams * size if compact else ids.eos,
        codec_bias,
        view.audio,
        view.audio if view.pairs is None else view.pairs.partners,
        view.slots,
        positions,
        requests.prompt_length,
        requests.min_frames,
        requests.seed,
        requests.cfg,
        top_k,
        temperature,
        frames,
        ids.codec_begin,
        ids.eos,
        NUM_STREAM=streams,
        SIZE=size,
        STREAMS=triton.next_power_of_2(streams),
        WIDTH=triton.next_power_of_2(size + 1),
        num_warps=_WARPS,
        enable_fp_fusion=False,  # a fused multiply-add would round the guided logits differently
    )
    return frames


@triton.jit
def _gumbel_noise(seed, step, stream, ids):
    """``draw.gumbel_noise``."""
    bits = seed * _SEED + step * _STEP + stream * _STREAM + ids * _ID
    bits = (bits ^ ((bits >> 30) & ((1 << 34) - 1))) * _FIRST
    bits = (bits ^ ((bits >> 27) & ((1 << 37) - 1))) * _SECOND
    bits = bits ^ ((bits >> 31) & ((1 << 33) - 1))
    uniform = (((bits >> 12) & ((1 << 52) - 1)).to(tl.float64) + 0.5) * 2.0**-52
    return -tl.log(-tl.log(uniform))


@triton.jit(do_not_specialize=["row_stride", "codec_column", "eos_column", "codec_begin", "eos"])
def _draw_frame(
    logits,
    row_stride,
    codec_column,
    eos_column,
    codec_bias,
    rows,
    partners,
    slots,
    positions,
    prompt_lengths,
    min_frames,
    seeds,
    cfgs,
    top_ks,
    temperatures,
    frames,
    codec_begin,
    eos,
    NUM_STREAM: tl.constexpr,
    SIZE: tl.constexpr,
    STREAMS: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """One program per row that draws a frame, with a tile of all streams' intervals; eos is at the end of stream 0's.

    ``rows`` and ``partners`` are None if every row draws for itself; an unguided row is its own partner.
    """
    place = tl.program_id(0).to(tl.int64)
    row = place if rows is None else tl.load(rows + place)
    partner = row if partners is None else tl.load(partners + place)
    slot = tl.load(slots + row)
    step = tl.load(positions + row) + 1 - tl.load(prompt_lengths + slot)

    # The logits that may be drawn.
    stream = tl.arange(0, STREAMS)[:, None]
    index = tl.arange(0, WIDTH)[None, :]
    code = (stream < NUM_STREAM) & (index < SIZE)
    end = (stream == 0) & (index == SIZE)
    column = tl.where(end, eos_column, codec_column + stream * SIZE + index)
    values = tl.load(logits + row * row_stride + column, mask=code | end, other=0.0).to(tl.float32)
    if partners is not None:
        unconditional = tl.load(logits + partner * row_stride + column, mask=code | end, other=0.0).to(tl.float32)
        cfg = tl.load(cfgs + slot)
        values = tl.where(partner == row, values, values * cfg + unconditional * (1 - cfg))
    values += tl.load(codec_bias + stream * SIZE + index, mask=code, other=0.0)
    values = tl.where(end & (step < tl.load(min_frames + slot)), float("-inf"), values)

    # Keys of 64 bits that order them: the float's bits as an ordered integer, NaN above all, then the lower index.
    bits = tl.where(values != values, _LOW_31, values.to(tl.int32, bitcast=True))
    ordered = bits ^ ((bits >> 31) & _LOW_31)
    keys = (ordered.to(tl.int64) << 32) | (index ^ _LOW_31).to(tl.int64)
    keys = tl.where(code | end, keys, _NO_CANDIDATE)

    # The best of the top-k with their noise.
    streams = tl.arange(0, STREAMS).to(tl.int64)
    seed = tl.load(seeds + slot)
    temperature = tl.load(temperatures + row).to(tl.float64)
    best = tl.full([STREAMS], float("-inf"), tl.float64)
    drawn = tl.zeros([STREAMS], tl.int64)
    for rank in range(0, tl.load(top_ks + row)):
        key = tl.max(keys, axis=1)
        high = (key >> 32).to(tl.int32)
        value = (high ^ ((high >> 31) & _LOW_31)).to(tl.float32, bitcast=True)
        code_or_end = (key & _LOW_31) ^ _LOW_31
        candidate = tl.where(code_or_end == SIZE, eos, codec_begin + streams * SIZE + code_or_end)
        score = value.to(tl.float64) / temperature + _gumbel_noise(seed, step, streams, candidate)
        score = tl.where(value != value, float("inf"), score)
        better = (key != _NO_CANDIDATE) & ((rank == 0) | (score > best))
        best = tl.where(better, score, best)
        drawn = tl.where(better, candidate, drawn)
        keys = tl.where(keys == key[:, None], _NO_CANDIDATE, keys)

    ended = tl.max(tl.where((streams == 0) & (drawn == eos), 1, 0), axis=0)
    frame = tl.where((streams > 0) & (ended == 1), 0, drawn)
    tl.store(frames + row * NUM_STREAM + streams, frame, mask=streams < NUM_STREAM)
    tl.store(frames + partner * NUM_STREAM + streams, frame, mask=streams < NUM_STREAM)
