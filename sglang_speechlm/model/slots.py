"""Per-request state for the model and the sampler, in tensors indexed by SGLang's request slot.

A slot is SGLang's ``req_pool_idx``. Slot 0 is its padding row (CUDA graphs pad batches with it) and stays zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class RequestEntry:
    """One request's values for its slot.

    Attributes:
        slot: SGLang's ``req_pool_idx``.
        audio: whether it generates frames instead of text.
        prompt_length: number of positions before the first generated one.
        min_frames: minimum number of frames.
        top_k: candidates per draw; 1 is greedy.
        seed: seed of all draws of this request.
        cfg: guidance scale.
        leader: for an unconditional branch, the slot of the request that it guides; else None.
    """

    slot: int
    audio: bool
    prompt_length: int
    min_frames: int
    top_k: int
    seed: int
    cfg: float = 1.0
    leader: int | None = None


class RequestTable:
    """Per-request state of ``slots`` slots on ``device``.

    Attributes:
        streams: int64 [slots, num_stream - 1], ids of streams 1.. of each request's newest frame, 0 without one.
        prompt_length: int64 [slots].
        min_frames: int64 [slots].
        seed: int64 [slots].
        cfg: float32 [slots].
        audio: bool [slots], on the host, where each batch is planned.
        top_k: int64 [slots], on the host.
        leader: int64 [slots], on the host: for unconditional branches the slot that they guide, else -1.
    """

    def __init__(self, slots: int, num_stream: int, device: torch.device | str) -> None:
        self.streams = torch.zeros(slots, num_stream - 1, dtype=torch.int64, device=device)
        self.prompt_length = torch.zeros(slots, dtype=torch.int64, device=device)
        self.min_frames = torch.zeros(slots, dtype=torch.int64, device=device)
        self.seed = torch.zeros(slots, dtype=torch.int64, device=device)
        self.cfg = torch.ones(slots, dtype=torch.float32, device=device)
        self.audio = torch.zeros(slots, dtype=torch.bool)
        self.top_k = torch.ones(slots, dtype=torch.int64)
        self.leader = torch.full((slots,), -1)

    def enter(self, entries: Sequence[RequestEntry]) -> None:
        """Fill the slots of requests whose prefill starts or continues; call it on the stream that decodes."""
        device = self.streams.device
        slots = torch.tensor([entry.slot for entry in entries])
        self.audio[slots] = torch.tensor([entry.audio for entry in entries])
        self.top_k[slots] = torch.tensor([entry.top_k for entry in entries])
        self.leader[slots] = torch.tensor([-1 if entry.leader is None else entry.leader for entry in entries])
        slots = slots.to(device, non_blocking=True)
        numbers = torch.tensor([[entry.prompt_length, entry.min_frames, entry.seed] for entry in entries])
        numbers = numbers.to(device, non_blocking=True)
        self.streams[slots] = 0
        self.prompt_length[slots] = numbers[:, 0]
        self.min_frames[slots] = numbers[:, 1]
        self.seed[slots] = numbers[:, 2]
        self.cfg[slots] = torch.tensor([entry.cfg for entry in entries]).to(device, non_blocking=True)


@dataclass(frozen=True)
class Replay:
    """Frames in a prefill: those that a retracted request had already generated.

    Attributes:
        positions: int64 [F], indices into the flattened prefill.
        streams: int64 [F, num_stream - 1], their ids of streams 1...
    """

    positions: torch.Tensor
    streams: torch.Tensor


@dataclass(frozen=True)
class Pairs:
    """The guided requests of a batch, K of them.

    Attributes:
        leaders, shadows: int64 [K], rows of the conditional and the unconditional branches.
        places: int64 [K], each leader's index among the rows that draw a frame.
        partners: int64 [m], the shadow's row for each row that draws a frame, and its own row if it is not guided.
    """

    leaders: torch.Tensor
    shadows: torch.Tensor
    places: torch.Tensor
    partners: torch.Tensor


_WIDE_TOP_K = 1024
"""A text row with a larger top-k is drawn apart from the others, which would all take as many candidates."""


@dataclass(frozen=True)
class TextRows:
    """Rows that draw their text ids together.

    Attributes:
        rows: int64 [n], rows of the batch, or None for all of them.
        smallest_top_k, largest_top_k: of these rows, known on the host.
    """

    rows: torch.Tensor | None
    smallest_top_k: int
    largest_top_k: int


@dataclass(frozen=True)
class BatchView:
    """One step's batch as the model and the sampler see it.

    Attributes:
        slots: int64 [N], SGLang's request slots.
        text: int64 [n], rows that generate text, or None for all rows of the batch.
        audio: int64 [m], rows that draw a frame, or None for all rows of the batch.
        spoken: int64 [s], rows that generate frames, including shadows' rows, or None for all rows of the batch.
        text_draws: the rows of ``text`` by the size of their draws; empty if there are none.
        audio_top_k: the largest top-k among the rows that draw a frame; 0 if there are none.
        pairs: the guided requests, or None. Their shadows draw nothing and take their leaders' frames.
        replay: frames inside the prefill, or None.
        compact: whether only the codec slice and eos are needed from the logits of spoken rows.
    """

    slots: torch.Tensor
    text: torch.Tensor | None
    audio: torch.Tensor | None
    spoken: torch.Tensor | None
    text_draws: tuple[TextRows, ...]
    audio_top_k: int
    pairs: Pairs | None = None
    replay: Replay | None = None
    compact: bool = False

    @property
    def has_text(self) -> bool:
        return bool(self.text_draws)

    @property
    def has_audio(self) -> bool:
        return self.audio_top_k > 0

    @classmethod
    def of(
        cls,
        table: RequestTable,
        slots: torch.Tensor,
        slots_on_host: torch.Tensor,
        *,
        replay: Replay | None = None,
        compact: bool = False,
    ) -> BatchView:
        """Split the batch in ``slots`` [N] by the kinds of its rows, on the host, so that no step waits for the device.

        Args:
            slots: int64 [N] on the device.
            slots_on_host: the same on the host.
            replay: frames inside the prefill, or None.
            compact: whether nothing but the sampler's phases reads the logits.
        """
        leader = table.leader[slots_on_host]
        text = ~table.audio[slots_on_host]
        draws_frame = ~text & (leader < 0)
        top_k = table.top_k[slots_on_host]

        def rows(mask: torch.Tensor) -> torch.Tensor | None:
            return None if bool(mask.all()) else mask.nonzero().squeeze(1).to(slots.device, non_blocking=True)

        def largest_top_k(mask: torch.Tensor) -> int:
            return int(top_k[mask].max()) if bool(mask.any()) else 0

        def text_draws() -> Iterator[TextRows]:
            wide = text & (top_k > _WIDE_TOP_K)
            for mask in (text & ~wide, wide) if bool(wide.any()) else (text,):
                if largest := largest_top_k(mask):
                    yield TextRows(rows(mask), int(top_k[mask].min()), largest)

        return cls(
            slots,
            rows(text),
            rows(draws_frame),
            rows(~text),
            tuple(text_draws()),
            largest_top_k(draws_frame),
            _pairs(table, slots, slots_on_host, leader, draws_frame),
            replay,
            compact,
        )


def _pairs(
    table: RequestTable,
    slots: torch.Tensor,
    slots_on_host: torch.Tensor,
    leader: torch.Tensor,
    draws_frame: torch.Tensor,
) -> Pairs | None:
    shadows = (leader >= 0).nonzero().squeeze(1)
    if not len(shadows):
        return None
    row_of = torch.empty_like(table.leader)
    row_of[slots_on_host] = torch.arange(len(slots_on_host))
    leaders = row_of[leader[shadows]]
    places = (draws_frame.cumsum(0) - 1)[leaders]
    partners = draws_frame.nonzero().squeeze(1)
    partners[places] = shadows
    device = slots.device
    return Pairs(*(rows.to(device, non_blocking=True) for rows in (leaders, shadows, places, partners)))
