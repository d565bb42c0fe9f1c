"""The frames of a batch: guided rows draw from both of their branches, which get the same frame."""

from __future__ import annotations

from dataclasses import replace

import torch

from sglang_speechlm.config import Ids
from sglang_speechlm.model.slots import BatchView, RequestTable
from sglang_speechlm.sampler.phases import batch_draws, draw_frame


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

    Guided rows draw from ``cond * cfg + uncond * (1 - cfg)`` of the raw logits, on all streams (the fork's formula).

    Args:
        logits: float [N, vocab_size], or [N, num_stream * codec_layer_size + 1] (the codec slice, then eos).
        view: of N rows.
        codec_bias: float32 [num_stream, codec_layer_size], what stream_emb adds to the codec slice.
        top_k: int [N]; 1 is greedy.
        temperature: float [N], above 0.
        positions: int64 [N], the newest position of each row.

    Returns:
        int64 [N, num_stream]: vocabulary ids; zeros for text rows.
    """
    rows = slice(None) if view.audio is None else view.audio
    codec, eos = _codec_and_eos(logits, ids)
    spoken_codec, spoken_eos = codec[rows], eos[rows]
    if (pairs := view.pairs) is not None:
        cfg = requests.cfg[view.slots[pairs.leaders]]
        spoken_codec[pairs.places] = _guided(codec[pairs.leaders], codec[pairs.shadows], cfg.view(-1, 1, 1))
        spoken_eos[pairs.places] = _guided(eos[pairs.leaders], eos[pairs.shadows], cfg)
    draws = batch_draws(view, requests, top_k=top_k, temperature=temperature, positions=positions)
    drawn = draw_frame(
        spoken_codec + codec_bias,
        spoken_eos,
        ids,
        requests.min_frames[view.slots[rows]],
        replace(draws.of(rows), largest_top_k=view.audio_top_k),
    )
    if view.audio is None:
        return drawn
    frames = drawn.new_zeros(len(logits), ids.num_stream)
    frames[rows] = drawn
    if pairs is not None:
        frames[pairs.shadows] = drawn[pairs.places]
    return frames


def _codec_and_eos(logits: torch.Tensor, ids: Ids) -> tuple[torch.Tensor, torch.Tensor]:
    size = ids.codec_end - ids.codec_begin
    if logits.shape[1] == size + 1:
        codec, eos = logits[:, :size], logits[:, size]
    else:
        codec, eos = logits[:, ids.codec_begin : ids.codec_end], logits[:, ids.eos]
    return codec.float().reshape(-1, ids.num_stream, ids.codec_layer_size), eos.float()


def _guided(cond: torch.Tensor, uncond: torch.Tensor, cfg: torch.Tensor) -> torch.Tensor:
    return cond * cfg + uncond * (1 - cfg)
