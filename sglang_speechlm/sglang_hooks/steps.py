"""Hooks around a step: fill the per-request state, and attach the batch's view for the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sglang.srt.runtime_context import get_observability, get_parallel

from sglang_speechlm import metrics
from sglang_speechlm.model.slots import BatchView, Replay, RequestTable
from sglang_speechlm.sglang_hooks.req import entry, is_audio, spoken_frames
from sglang_speechlm.sglang_hooks.sampler import SpeechLMSampler
from sglang_speechlm.sglang_hooks.types import ScheduleBatch


def attach_requests(_result: Any, runner: Any, *_args: Any, **_kwargs: Any) -> None:
    """AFTER ModelRunner.alloc_memory_pool: create sampler and state before any CUDA graph is captured."""
    model = runner.model
    slots = runner.req_to_token_pool.req_to_token.shape[0]
    requests = RequestTable(slots, model.ids.num_stream, runner.device)
    runner.sampler = SpeechLMSampler(model.ids, requests, codec_bias=model.attach(requests))
    if get_observability().enable_metrics and get_parallel().tp_rank == 0:
        metrics.enable()


def view_batch(forward_batch: Any, _cls: Any, batch: ScheduleBatch, runner: Any, *_args: Any, **_kwargs: Any) -> None:
    """AFTER ForwardBatch.init_new, on the stream that decodes: fill the slots on prefill, and attach the view.

    The view is attached to ``sampling_info``, because SGLang rebuilds a ForwardBatch from its declared fields only.
    """
    requests: RequestTable | None = runner.model.requests
    if requests is None or batch.sampling_info is None:
        return
    replay = None
    if forward_batch.forward_mode.is_extend():
        requests.enter([entry(req) for req in batch.reqs])
        replay = _replay(batch, forward_batch.input_ids.device)
    batch.sampling_info.speechlm_view = BatchView.of(
        requests,
        forward_batch.req_pool_indices,
        batch.req_pool_indices_cpu,
        replay=replay,
        compact=not batch.return_logprob and not _biased(batch.sampling_info),
    )


def apply_head(output: Any, runner: Any, forward_batch: Any, *_args: Any, **_kwargs: Any) -> Any:
    """AFTER DecodeCudaGraphRunner.execute: apply the head after the graph, as the kinds of the rows need it.

    A graph has one head for all batches of its size. That would have to be the whole head, and a frame would cost as
    much as a text token. Outside of the graph, the head is only one more product to launch.
    """
    rows = len(output.hidden_states)
    forward_batch.next_token_logits_buffer = runner.buffers.next_token_logits_buffer[:rows]
    return runner.model_runner.model.logits(forward_batch.input_ids, output.hidden_states, forward_batch)


def leave_on_host(_move: Any, _items: Any, _device: Any, _embed: Any) -> None:
    """AROUND _move_items_to_device: leave clips on the host; the model moves each to its device itself.

    A clip that SGLang moved would stay on the GPU for the lifetime of its request.
    """


def _biased(info: Any) -> bool:
    """Whether SGLang itself will modify the logits over the whole vocabulary."""
    orchestrator = info.penalizer_orchestrator
    return (
        info.acc_additive_penalties is not None
        or info.acc_scaling_penalties is not None
        or info.logit_bias is not None
        or bool(info.grammars)
        or bool(orchestrator and orchestrator.is_required)
        or info.has_custom_logit_processor
    )


def _replay(batch: ScheduleBatch, device: torch.device | str) -> Replay | None:
    """Return the frames in this prefill: those of retracted audio requests that recompute their past."""
    positions: list[npt.NDArray[np.int64]] = []
    streams: list[npt.NDArray[np.int32]] = []
    start = 0
    for req, prefix, length in zip(batch.reqs, batch.prefix_lens, batch.extend_lens, strict=True):
        if is_audio(req) and req.output_ids:
            frames = spoken_frames(req)
            places = np.arange(len(frames)) + len(req.origin_input_ids) - prefix
            is_read = (places >= 0) & (places < length)
            positions.append(start + places[is_read])
            streams.append(frames[is_read, 1:])
        start += length
    if not sum(map(len, positions)):
        return None
    later_ids = torch.from_numpy(np.concatenate(streams)).to(device, torch.int64)
    return Replay(torch.from_numpy(np.concatenate(positions)).to(device), later_ids)
