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
from sglang_speechlm.sampler.phases import Draws, draw_frame, draw_text
from sglang_speechlm.stage import FRAMES


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
            int64 [N]: text ids, and stream 0 of frames. ``customized_info[FRAMES]`` gets all streams:
            int64 [N, num_stream], zeros for text rows.
        """
        view: BatchView = sampling_info.speechlm_view
        logits = self._preprocess_logits(logits_output.next_token_logits, sampling_info)
        draws = Draws(
            top_k=sampling_info.top_ks,
            temperature=sampling_info.temperatures.view(-1),
            seed=self._requests.seed[view.slots],
            step=positions + 1 - self._requests.prompt_length[view.slots],
            largest_top_k=view.text_top_k,
            top_p=sampling_info.top_ps if sampling_info.need_top_p_sampling else None,
            min_p=sampling_info.min_ps if sampling_info.need_min_p_sampling else None,
        )
        tokens = torch.empty_like(positions)
        if view.has_audio:
            frames = self._draw_frames(logits, view, draws)
            self._requests.streams[view.slots] = frames[:, 1:]
            logits_output.customized_info = {FRAMES: frames}
            tokens.copy_(frames[:, 0])
        if view.has_text:
            rows = slice(None) if view.text is None else view.text
            tokens[rows] = draw_text(logits[rows].float(), self._ids, draws.of(rows))
        if return_logprob:
            self.output_logprob_processor.compute_logprobs(
                torch.log_softmax(logits.float(), dim=-1), top_logprobs_nums, token_ids_logprobs, tokens
            ).write_output_to(logits_output)
        self._sync_token_ids_across_tp(tokens, sampling_info)
        return tokens

    def _draw_frames(self, logits: torch.Tensor, view: BatchView, draws: Draws) -> torch.Tensor:
        """Return the frames of all rows, int64 [N, num_stream]; zeros for text rows.

        Guided rows draw from ``cond * cfg + uncond * (1 - cfg)`` of the raw logits, on all streams (the fork's
        formula). Both branches get the drawn frame.
        """
        rows = slice(None) if view.audio is None else view.audio
        codec, eos = self._codec_and_eos(logits)
        spoken_codec, spoken_eos = codec[rows], eos[rows]
        if (pairs := view.pairs) is not None:
            cfg = self._requests.cfg[view.slots[pairs.leaders]]
            spoken_codec[pairs.places] = _guided(codec[pairs.leaders], codec[pairs.shadows], cfg.view(-1, 1, 1))
            spoken_eos[pairs.places] = _guided(eos[pairs.leaders], eos[pairs.shadows], cfg)
        drawn = draw_frame(
            spoken_codec + self._codec_bias,
            spoken_eos,
            self._ids,
            self._requests.min_frames[view.slots[rows]],
            replace(draws.of(rows), largest_top_k=view.audio_top_k, top_p=None, min_p=None),
        )
        if view.audio is None:
            return drawn
        frames = drawn.new_zeros(len(logits), self._ids.num_stream)
        frames[rows] = drawn
        if pairs is not None:
            frames[pairs.shadows] = drawn[pairs.places]
        return frames

    def _codec_and_eos(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ids = self._ids
        size = ids.codec_end - ids.codec_begin
        if logits.shape[1] == size + 1:
            codec, eos = logits[:, :size], logits[:, size]
        else:
            codec, eos = logits[:, ids.codec_begin : ids.codec_end], logits[:, ids.eos]
        return codec.float().reshape(-1, ids.num_stream, ids.codec_layer_size), eos.float()


def _guided(cond: torch.Tensor, uncond: torch.Tensor, cfg: torch.Tensor) -> torch.Tensor:
    return cond * cfg + uncond * (1 - cfg)
