"""The two phases and their candidates: the ids of a text step, and the ids of each stream of a frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from sglang_speechlm.config import Ids
from sglang_speechlm.model.slots import BatchView, RequestTable
from sglang_speechlm.sampler.draw import best, draw

_NEVER = float("-inf")

_PIECE_CANDIDATES = 1 << 21
"""Maximum candidates in one draw (but at least one row's): a draw takes about 70 bytes per candidate."""


@dataclass(frozen=True)
class Draws:
    """How each row of a batch of N rows draws.

    Attributes:
        top_k: int64 [N]; 1 is greedy.
        temperature: float [N], above 0.
        seed: int64 [N].
        step: int64 [N], number of positions generated before this one.
        largest_top_k: the largest of ``top_k``, known on the host.
        smallest_top_k: at most the smallest of ``top_k``, known on the host.
        top_p, min_p: float [N], or None if no row uses them.
    """

    top_k: torch.Tensor
    temperature: torch.Tensor
    seed: torch.Tensor
    step: torch.Tensor
    largest_top_k: int
    smallest_top_k: int = 1
    top_p: torch.Tensor | None = None
    min_p: torch.Tensor | None = None

    def is_unlimited(self, candidates: int) -> bool:
        """Whether every row draws from all of its candidates, so that their order does not matter."""
        return self.smallest_top_k >= candidates and self.top_p is None and self.min_p is None

    def of(self, rows: torch.Tensor | slice) -> Draws:
        """Return the draws of some rows."""
        return Draws(
            top_k=self.top_k[rows],
            temperature=self.temperature[rows],
            seed=self.seed[rows],
            step=self.step[rows],
            largest_top_k=self.largest_top_k,
            smallest_top_k=self.smallest_top_k,
            top_p=None if self.top_p is None else self.top_p[rows],
            min_p=None if self.min_p is None else self.min_p[rows],
        )


def batch_draws(
    view: BatchView,
    requests: RequestTable,
    *,
    top_k: torch.Tensor,
    temperature: torch.Tensor,
    positions: torch.Tensor,
    top_p: torch.Tensor | None = None,
    min_p: torch.Tensor | None = None,
) -> Draws:
    """Return the draws of all rows of a batch, without their largest top-k.

    Args:
        view: of N rows.
        top_k, temperature, top_p, min_p: [N], as in ``Draws``.
        positions: int64 [N], the newest position of each row.
    """
    seed, prompt_length = requests.seed[view.slots], requests.prompt_length[view.slots]
    return Draws(top_k, temperature, seed, positions + 1 - prompt_length, 0, top_p=top_p, min_p=min_p)


def draw_text(logits: torch.Tensor, ids: Ids, draws: Draws) -> torch.Tensor:
    """Draw one text id per row from the text range, eot and eos; eot and eos cannot be the first id.

    Args:
        logits: float [N, vocab_size].
        draws: N rows.

    Returns:
        int64 [N].
    """
    width = min(draws.largest_top_k, ids.text_end - ids.text_begin)
    rows = max(_PIECE_CANDIDATES // width, 1)
    if len(logits) <= rows:
        return _draw_text(logits, ids, draws)
    pieces = [slice(first, first + rows) for first in range(0, len(logits), rows)]
    return torch.cat([_draw_text(logits[piece], ids, draws.of(piece)) for piece in pieces])


def _draw_text(logits: torch.Tensor, ids: Ids, draws: Draws) -> torch.Tensor:
    ends = torch.stack([draws.step.new_full((), ids.eos), draws.step.new_full((), ids.eot)])
    end_logits = torch.stack([logits[:, ids.eos], logits[:, ids.eot]], dim=1)
    end_logits = end_logits.masked_fill((draws.step == 0).unsqueeze(1), _NEVER)
    text_logits = logits[:, ids.text_begin : ids.text_end]
    if draws.is_unlimited(2 + text_logits.shape[1]):
        text_ids = torch.arange(ids.text_begin, ids.text_end, device=logits.device).expand(len(logits), -1)
        values = torch.cat([end_logits, text_logits], dim=1)
        candidates = torch.cat([ends.expand(len(logits), 2), text_ids], dim=1)
    else:
        values, indices = best(text_logits, draws.largest_top_k)
        values = torch.cat([end_logits, values], dim=1)
        candidates = torch.cat([ends.expand(len(logits), 2), indices + ids.text_begin], dim=1)
        values, order = best(values, draws.largest_top_k)
        candidates = candidates.gather(1, order)
    if draws.largest_top_k == 1:
        return candidates[:, 0]
    return draw(
        values,
        candidates,
        top_k=draws.top_k.unsqueeze(1),
        temperature=draws.temperature.unsqueeze(1),
        seed=draws.seed.unsqueeze(1),
        step=draws.step.unsqueeze(1),
        # Text uses the stream number after the last one, so it shares no noise with frames of the same seed.
        stream=torch.full_like(draws.seed, ids.num_stream).unsqueeze(1),
        top_p=None if draws.top_p is None else draws.top_p.unsqueeze(1),
        min_p=None if draws.min_p is None else draws.min_p.unsqueeze(1),
    )


def draw_frame(
    codec_logits: torch.Tensor, eos_logits: torch.Tensor, ids: Ids, min_frames: torch.Tensor, draws: Draws
) -> torch.Tensor:
    """Draw one frame per row: each stream from its own interval, stream 0 also from eos once it is allowed.

    Args:
        codec_logits: float [N, num_stream, codec_layer_size], each stream's own interval, the codec pad first.
        eos_logits: float [N].
        min_frames: int64 [N], number of frames before eos is allowed.
        draws: N rows.

    Returns:
        int64 [N, num_stream]: vocabulary ids. If stream 0 is eos, the other streams are 0: a control frame.
    """
    rows, streams, size = codec_logits.shape
    ends = codec_logits.new_full((rows, streams, 1), _NEVER)
    ends[:, 0, 0] = eos_logits.masked_fill(draws.step < min_frames, _NEVER)
    values, indices = best(torch.cat([codec_logits, ends], dim=2), draws.largest_top_k)
    stream = torch.arange(streams, device=codec_logits.device).view(1, streams, 1)
    candidates = torch.where(indices == size, ids.eos, indices + ids.codec_begin + stream * size)
    if draws.largest_top_k == 1:
        frame = candidates[..., 0]
    else:
        frame = draw(
            values,
            candidates,
            top_k=draws.top_k.view(-1, 1, 1),
            temperature=draws.temperature.view(-1, 1, 1),
            seed=draws.seed.view(-1, 1, 1),
            step=draws.step.view(-1, 1, 1),
            stream=stream,
        )
    ended = frame[:, :1] == ids.eos
    return torch.cat([frame[:, :1], frame[:, 1:].masked_fill(ended, 0)], dim=1)
