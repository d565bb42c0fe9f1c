"""SpeechLM as an SGLang model: a Qwen3 backbone that also reads clips and frames of eight streams."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from sglang.srt.distributed import tensor_model_parallel_all_reduce
from sglang.srt.layers.logits_processor import LogitsProcessor, LogitsProcessorOutput
from sglang.srt.managers.mm_utils import embed_mm_inputs
from sglang.srt.managers.schedule_batch import MultimodalDataItem, MultimodalInputs
from sglang.srt.model_executor.forward_batch_info import ForwardBatch
from sglang.srt.models.qwen3 import Qwen3ForCausalLM
from sglang.srt.runtime_context import get_parallel
from torch import nn
from typing_extensions import override

from sglang_speechlm import metrics
from sglang_speechlm.audio.encoder import AudioEncoder
from sglang_speechlm.checkpoint.tensors import AUDIO_TOWER_PREFIX, check_tensors
from sglang_speechlm.config import Ids, SpeechLMConfig
from sglang_speechlm.model.slots import BatchView, RequestTable


class CodecHead(nn.Module):
    """The rows of lm_head that a frame needs: the codec slice, then eos.

    Spoken rows are multiplied by it instead of the whole head. It is a copy of those rows, and every rank has all of
    them: nothing has to be gathered.
    """

    def __init__(self, rows: torch.Tensor) -> None:
        super().__init__()
        self.weight = rows


def codec_rows(head: torch.Tensor, first: int, ids: Ids) -> torch.Tensor:
    """Return the rows of the head that a frame needs; zeros for those that other ranks have.

    Args:
        head: [rows, hidden], this rank's part of the head.
        first: the vocabulary id of the first row of ``head``.

    Returns:
        [codec_end - codec_begin + 1, hidden]: the codec slice, then eos.
    """
    size = ids.codec_end - ids.codec_begin
    rows = head.new_zeros(size + 1, head.shape[1])
    for at, begin, end in ((0, ids.codec_begin, ids.codec_end), (size, ids.eos, ids.eos + 1)):
        own_begin, own_end = max(begin, first), min(end, first + len(head))
        if own_begin < own_end:
            rows[at + own_begin - begin : at + own_end - begin] = head[own_begin - first : own_end - first]
    return rows


def frame_sums(frames: torch.Tensor, table: torch.Tensor, first: int) -> torch.Tensor:
    """Return the sum of each frame's embeddings that this rank has; the ranks' sums add up to the frame's embedding.

    Args:
        frames: int64 [N, num_stream]. A 0 in streams 1.. adds nothing; in stream 0 it is the pad.
        table: [rows, hidden], this rank's part of the embeddings.
        first: the vocabulary id of the first row of ``table``.

    Returns:
        float32 [N, hidden], so that adding up ranks does not round each rank's part.
    """
    used = frames != 0
    used[:, 0] = True
    rows = frames - first
    local = used & (rows >= 0) & (rows < len(table))
    embeds = nn.functional.embedding(rows * local, table)
    return (embeds * local.unsqueeze(-1)).sum(dim=1, dtype=torch.float32)


class SpeechLMForConditionalGeneration(Qwen3ForCausalLM):
    """Qwen3 with an audio tower, an adaptor and stream embeddings (ESPnet, class ParallelLLM)."""

    def __init__(self, config: SpeechLMConfig, quant_config: Any = None, prefix: str = "") -> None:
        super().__init__(config.text_config, quant_config=quant_config, prefix=prefix)
        self.speechlm_config = config
        self.ids = config.ids
        self.audio_encoder = AudioEncoder(config.audio_config)
        self.adaptor = nn.Linear(config.adaptor_input_dim, config.hidden_size)
        self.stream_emb = nn.Embedding(config.num_stream, config.hidden_size)
        self.requests: RequestTable | None = None
        self.codec_head: CodecHead | None = None
        self.codec_logits = LogitsProcessor(config.text_config, skip_all_gather=True)

    @torch.no_grad()
    def attach(self, requests: RequestTable) -> torch.Tensor:
        """Attach the per-request state to the loaded model; call it before any graph is captured.

        Returns:
            float32 [num_stream, codec_layer_size]: what stream_emb adds to the logits of each stream's own interval.
            The streams' intervals are disjoint and the head is linear, so one product of lm_head with the hidden
            state, plus this, holds all streams' logits. stream_emb[0] counts as zero whatever the tensor holds.
        """
        self.requests = requests
        ids, head = self.ids, self.lm_head
        rows = codec_rows(head.weight.data, head.shard_indices.org_vocab_start_index, ids)
        if get_parallel().tp_size > 1:
            rows = tensor_model_parallel_all_reduce(rows)
        self.codec_head = CodecHead(rows)
        # Codec rows only: the whole head in float32 takes gibibytes, and by now the KV cache has been allocated.
        products = self.stream_emb.weight.data.float() @ rows[:-1].float().T
        bias = products.view(ids.num_stream, ids.num_stream, ids.codec_layer_size)
        bias = bias.diagonal(dim1=0, dim2=1).T.clone()
        bias[0] = 0
        return bias

    @override
    @torch.no_grad()
    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        forward_batch: ForwardBatch,
        input_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> LogitsProcessorOutput:
        """Run one step of a batch: the newest frame of each row when decoding, whole prompts when prefilling.

        Args:
            input_ids: int64 [tokens], stream 0.
            positions: int64 [tokens].
            input_embeds: [tokens, hidden], instead of the embedded ids.
        """
        assert self.requests is not None, "the SpeechLM hooks are not installed"
        view: BatchView | None = getattr(forward_batch.sampling_info, "speechlm_view", None)
        if input_embeds is None:
            if forward_batch.forward_mode.is_decode_or_idle():
                input_embeds = self._embed_frames(input_ids, self.requests.streams[forward_batch.req_pool_indices])
            else:
                input_embeds = self._embed_prompts(input_ids, forward_batch, view)
        hidden = self.model(input_ids, positions, forward_batch, input_embeds)
        if view is None and forward_batch.forward_mode.is_decode_or_idle():
            # A step that is captured in a graph. Its replays have rows of any kinds, which need different heads.
            return LogitsProcessorOutput(next_token_logits=None, hidden_states=hidden)
        return self.logits(input_ids, hidden, forward_batch)

    @torch.no_grad()
    def logits(
        self, input_ids: torch.Tensor, hidden: torch.Tensor, forward_batch: ForwardBatch
    ) -> LogitsProcessorOutput:
        """Return the logits that the kinds of the rows need.

        Args:
            input_ids: int64 [tokens], stream 0.
            hidden: [tokens, hidden], the backbone's output.

        Returns:
            next_token_logits, float32: [N, num_stream * codec_layer_size + 1] (the codec slice, then eos) if every row
            is audio and nothing but the sampler reads them, else [N, vocab_size].
        """
        view: BatchView | None = getattr(forward_batch.sampling_info, "speechlm_view", None)
        if view is not None and view.compact and view.has_audio:
            if not view.has_text:
                return self.codec_logits(input_ids, hidden, self.codec_head, forward_batch)
            if forward_batch.forward_mode.is_decode():  # else a row of the batch is many hidden states
                return self._mixed_logits(input_ids, hidden, view, forward_batch)
        return self.logits_processor(input_ids, hidden, self.lm_head, forward_batch)

    def _mixed_logits(
        self, input_ids: torch.Tensor, hidden: torch.Tensor, view: BatchView, forward_batch: ForwardBatch
    ) -> LogitsProcessorOutput:
        """Return the logits of a step of texts and frames; only text rows are multiplied by the whole head.

        Args:
            hidden: [N, hidden].

        Returns:
            next_token_logits [N, vocab_size]; -inf for ids that a spoken row cannot draw.
        """
        output = self.logits_processor(input_ids, hidden[view.text], self.lm_head, forward_batch)
        spoken = self.codec_logits(input_ids, hidden[view.spoken], self.codec_head, forward_batch)
        written, codec = output.next_token_logits, spoken.next_token_logits
        logits = forward_batch.next_token_logits_buffer
        if logits is None:
            logits = written.new_empty(len(hidden), written.shape[1])
        logits.fill_(float("-inf"))
        logits[view.text] = written
        logits[view.spoken, self.ids.codec_begin : self.ids.codec_end] = codec[:, :-1]
        logits[view.spoken, self.ids.eos] = codec[:, -1]
        output.next_token_logits = logits
        return output

    def _embed_frames(self, stream0: torch.Tensor, streams: torch.Tensor) -> torch.Tensor:
        """Return the summed embeddings of a frame's ids. A 0 in streams 1.. adds nothing; in stream 0 it is the pad.

        Args:
            stream0: int64 [N].
            streams: int64 [N, num_stream - 1].
        """
        frames = torch.cat([stream0.unsqueeze(1), streams], dim=1)
        table = self.model.embed_tokens
        sums = frame_sums(frames, table.weight, table.shard_indices.org_vocab_start_index)
        if get_parallel().tp_size > 1:
            sums = tensor_model_parallel_all_reduce(sums)
        return sums.to(table.weight.dtype)

    def _embed_prompts(
        self, input_ids: torch.Tensor, forward_batch: ForwardBatch, view: BatchView | None
    ) -> torch.Tensor:
        if forward_batch.contains_mm_inputs():
            rows = [i for i, inputs in enumerate(forward_batch.mm_inputs) if inputs is not None]
            embeds, _ = embed_mm_inputs(
                mm_inputs_list=[forward_batch.mm_inputs[i] for i in rows],
                extend_prefix_lens=[forward_batch.extend_prefix_lens_cpu[i] for i in rows],
                extend_seq_lens=[forward_batch.extend_seq_lens_cpu[i] for i in rows],
                input_ids=input_ids,
                input_embedding=self.model.embed_tokens,
                multimodal_model=self,
            )
        else:
            embeds = self.model.embed_tokens(input_ids)
        if view is not None and view.replay is not None:
            at = view.replay.positions
            embeds[at] = self._embed_frames(input_ids[at], view.replay.streams).to(embeds.dtype)
        return embeds

    def get_audio_feature(self, items: list[MultimodalDataItem]) -> list[torch.Tensor]:
        """Return the embeddings for the positions of clips and of earlier spoken answers.

        Each item is embedded by itself, so that its features do not depend on the other items.

        Args:
            items: with features float [num_mel_bins, frames], or int64 [frames, num_stream] (delayed ids).

        Returns:
            One tensor [positions, hidden] per item, because SGLang's cache keeps them one by one.
        """
        metrics.CLIPS_ENCODED.add(len(items))
        return [self._embed_item(item.feature) for item in items]

    def _embed_item(self, feature: torch.Tensor) -> torch.Tensor:
        device = self.stream_emb.weight.device
        if not feature.is_floating_point():
            frames = feature.to(device)
            return self._embed_frames(frames[:, 0], frames[:, 1:])
        return self.adaptor(self.audio_encoder(feature.to(device=device, dtype=self.adaptor.weight.dtype)))

    def pad_input_ids(self, input_ids: Sequence[int], mm_inputs: MultimodalInputs) -> array[int]:
        """Put each clip's hash at its positions, so that the radix cache keys a prompt by the content of its clips."""
        padded = array("q", input_ids)
        for item in mm_inputs.mm_items:
            for first, last in item.offsets:
                padded[first : last + 1] = array("q", item.padding_sequence(last + 1 - first))
        return padded

    @override
    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Load a checkpoint's tensors.

        Raises:
            ValueError: if any tensor is missing, unexpected or of another shape; the message names all of them.
        """
        if self.requests is not None:
            raise ValueError("weights cannot be replaced while the server runs; restart it with the new checkpoint")
        shapes: dict[str, tuple[int, ...]] = {}
        own = {
            "stream_emb.weight": self.stream_emb.weight,
            "adaptor.continuous_audio.weight": self.adaptor.weight,
            "adaptor.continuous_audio.bias": self.adaptor.bias,
        }
        for name, parameter in self.audio_encoder.audio_tower.named_parameters():
            own[AUDIO_TOWER_PREFIX + name] = parameter

        def backbone() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in weights:
                shapes[name] = tuple(tensor.shape)
                if name.startswith(("model.", "lm_head.")):
                    yield name, tensor
                elif name in own and own[name].shape == tensor.shape:
                    own[name].data.copy_(tensor)

        try:
            super().load_weights(backbone())
        except (RuntimeError, AssertionError, KeyError) as error:
            # SGLang's loaders stop at the first tensor that does not fit: read the rest, then name them all.
            shapes |= {name: tuple(tensor.shape) for name, tensor in weights}
            check_tensors(shapes, self.speechlm_config)
            raise ValueError(f"the checkpoint's tensors do not fit its config.json: {error}") from error
        check_tensors(shapes, self.speechlm_config)


EntryClass = SpeechLMForConditionalGeneration
