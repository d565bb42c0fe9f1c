"""What the model and the sampler must know of each running request, as tensors indexed by SGLang's request slot.

A slot is SGLang's ``req_pool_idx``. Slot 0 is its padding row (CUDA graphs pad batches with it) and stays zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

AUDIO = "audio"
"""Key of ``SamplingParams.custom_params``: true where a request continues in frames."""
MIN_FRAMES = "min_frames"
"""Key of ``SamplingParams.custom_params``: frames before which the audio may not end."""


@dataclass(frozen=True)
class RequestEntry:
    """One request as it enters its slot.

    Attributes:
        slot: SGLang's ``req_pool_idx``.
        audio: whether it continues in frames rather than in text.
        prompt_length: positions before its first generated one.
        min_frames: frames before which the audio may not end.
        top_k: candidates per draw; 1 is greedy.
        seed: seed of every draw of this request.
    """

    slot: int
    audio: bool
    prompt_length: int
    min_frames: int
    top_k: int
    seed: int


class RequestTable:
    """Per-request state of ``slots`` slots on ``device``.

    Attributes:
        streams: int64 [slots, num_stream - 1], ids of streams 1.. of each request's newest frame, 0 where it has none.
        prompt_length: int64 [slots].
        min_frames: int64 [slots].
        seed: int64 [slots].
        audio: bool [slots], on the host: which batches need what is decided there.
        top_k: int64 [slots], on the host.
    """

    def __init__(self, slots: int, num_stream: int, device: torch.device | str) -> None:
        self.streams = torch.zeros(slots, num_stream - 1, dtype=torch.int64, device=device)
        self.prompt_length = torch.zeros(slots, dtype=torch.int64, device=device)
        self.min_frames = torch.zeros(slots, dtype=torch.int64, device=device)
        self.seed = torch.zeros(slots, dtype=torch.int64, device=device)
        self.audio = torch.zeros(slots, dtype=torch.bool)
        self.top_k = torch.ones(slots, dtype=torch.int64)

    def enter(self, entries: Sequence[RequestEntry]) -> None:
        """Fill the slots of requests whose prefill starts or goes on; call it on the stream that decodes."""
        device = self.streams.device
        slots = torch.tensor([entry.slot for entry in entries])
        self.audio[slots] = torch.tensor([entry.audio for entry in entries])
        self.top_k[slots] = torch.tensor([entry.top_k for entry in entries])
        slots = slots.to(device, non_blocking=True)
        numbers = torch.tensor([[entry.prompt_length, entry.min_frames, entry.seed] for entry in entries])
        numbers = numbers.to(device, non_blocking=True)
        self.streams[slots] = 0
        self.prompt_length[slots] = numbers[:, 0]
        self.min_frames[slots] = numbers[:, 1]
        self.seed[slots] = numbers[:, 2]


@dataclass(frozen=True)
class Replay:
    """Frames that stand in a prefill: those that a retracted request had already spoken.

    Attributes:
        positions: int64 [F], places in the flattened prefill.
        streams: int64 [F, num_stream - 1], ids of streams 1.. there.
    """

    positions: torch.Tensor
    streams: torch.Tensor


@dataclass(frozen=True)
class BatchView:
    """One step's batch as the model and the sampler see it.

    Attributes:
        slots: int64 [N], SGLang's request slots.
        text: int64 [n] rows that continue in text, or None for all rows of the batch.
        audio: int64 [m] rows that continue in frames, or None for all rows of the batch.
        text_top_k, audio_top_k: the largest top-k among those rows; 0 where there are none.
        replay: frames inside the prefill, or None.
    """

    slots: torch.Tensor
    text: torch.Tensor | None
    audio: torch.Tensor | None
    text_top_k: int
    audio_top_k: int
    replay: Replay | None = None

    @property
    def all_audio(self) -> bool:
        return self.text_top_k == 0

    @property
    def all_text(self) -> bool:
        return self.audio_top_k == 0

    @classmethod
    def of(
        cls, table: RequestTable, slots: torch.Tensor, slots_on_host: torch.Tensor, replay: Replay | None = None
    ) -> BatchView:
        """Split the batch in ``slots`` [N] into text and audio rows, without touching the device's results."""
        audio = table.audio[slots_on_host]
        top_k = table.top_k[slots_on_host]
        if bool(audio.all()):
            return cls(slots, None, None, 0, int(top_k.max()), replay)
        if not bool(audio.any()):
            return cls(slots, None, None, int(top_k.max()), 0, replay)
        return cls(
            slots,
            (~audio).nonzero().squeeze(1).to(slots.device, non_blocking=True),
            audio.nonzero().squeeze(1).to(slots.device, non_blocking=True),
            int(top_k[~audio].max()),
            int(top_k[audio].max()),
            replay,
        )
