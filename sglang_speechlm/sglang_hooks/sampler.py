"""The sampler for SGLang: draws one id for a text row, and a frame of one id per stream for an audio row."""

from __future__ import annotations

from dataclasses import replace

import torch
from sglang.srt.layers.logits_processor import LogitsProcessorOutput
from sglang.srt.layers.sampler import Sampler
from sglang.srt.sampling.sampling_batch_info import SamplingBatchInfo
from typing_extensions import override

from sglang_speechlm.config import Ids
from sglang_speechlm.model.slots import BatchView, RequestTable
from sglang_speechlm.sampler.frames import draw_frames
from sglang_speechlm.sampler.phases import batch_draws, draw_text
from sglang_speechlm.sglang_hooks.results import StepFrames


class SpeechLMSampler(Sampler):
    """Draws for both phases; SGLang sees stream 0 of a frame as the token."""

    def __init__(self, ids: Ids, requests: RequestTable, codec_bias: torch.Tensor) -> None:
        """Initialise with the loaded model's state.

        Args:
            ids: the id space.
            requests: the per-slot state; the sampler writes ``streams`` after each frame.
            codec_bias: float32 [num_stream, codec_layer_size], lm_head . stream_emb on each stream's interval.
        """
        super().__init__()
        self._ids = ids
        self._requests = requests
        self._codec_bias = codec_bias

    @override
    def forward(
        self,
        logits_output: LogitsProcessorOutput,
        sampling_info: SamplingBatchInfo,
        return_logprob: bool,
        top_logprobs_nums: list[int],
        token_ids_logprobs: list[list[int]],
        positions: torch.Tensor,
    ) -> torch.Tensor:
        """Draw for every row.

        Args:
            logits_output: its next_token_logits are [N, vocab_size], or [N, num_stream * codec_layer_size + 1] (the
                codec slice, then eos) if every row is audio.
            positions: int64 [N], the newest position of each row.

        Returns:
            int64 [N]: text ids, and stream 0 of frames. ``auxiliary_device_output`` gets all streams:
            int64 [N, num_stream], zeros for text rows.
        """
        view: BatchView = sampling_info.speechlm_view
        logits = self._preprocess_logits(logits_output.next_token_logits, sampling_info)
        how = {
            "top_k": sampling_info.top_ks,
            "temperature": sampling_info.temperatures.view(-1),
            "positions": positions,
        }
        tokens = torch.empty_like(positions)
        if view.has_audio:
            frames = self._draw_frames(logits, view, how)
            self._requests.streams[view.slots] = frames[:, 1:]
            logits_output.auxiliary_device_output = StepFrames(frames)
            tokens.copy_(frames[:, 0])
        if view.has_text:
            draws = batch_draws(
                view,
                self._requests,
                top_p=sampling_info.top_ps if sampling_info.need_top_p_sampling else None,
                min_p=sampling_info.min_ps if sampling_info.need_min_p_sampling else None,
                **how,
            )
            for text in view.text_draws:
                rows = slice(None) if text.rows is None else text.rows
                group = replace(draws.of(rows), smallest_top_k=text.smallest_top_k, largest_top_k=text.largest_top_k)
                tokens[rows] = draw_text(logits[rows].float(), self._ids, group)
        if return_logprob:
            if any(ids is not None for ids in token_ids_logprobs):
                # SGLang would return a list for a row without ids, and fail when it copies the rows to the host.
                token_ids_logprobs = [ids or [] for ids in token_ids_logprobs]
            self.output_logprob_processor.compute_logprobs(
                torch.log_softmax(logits.float(), dim=-1), top_logprobs_nums, token_ids_logprobs, tokens
            ).write_output_to(logits_output)
        self._sync_token_ids_across_tp(tokens, sampling_info)
        return tokens

    def _draw_frames(self, logits: torch.Tensor, view: BatchView, how: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the frames of all rows, int64 [N, num_stream]; zeros for text rows."""
        draw = draw_frames
        if logits.is_cuda:
            from sglang_speechlm.sampler import fused

            if view.audio_top_k <= fused.MOST_CANDIDATES:
                draw = fused.draw_frames
        return draw(logits, view, self._requests, self._ids, self._codec_bias, **how)
