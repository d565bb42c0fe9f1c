"""The trainable form of SpeechLM: transformers' Qwen3 and audio encoder, with losses that make text control sound.

Plain training yields fluent babble that ignores its text, because the last frames predict the next one so well. Four
measures prevent that: stretches of the input frames are hidden, some of their codes are replaced, one attention head is
trained to look at the word being spoken, and that word and the phone must be predicted from the hidden state half-way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen3Model
from transformers.models.qwen3.modeling_qwen3 import Qwen3DecoderLayer, apply_rotary_pos_emb
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeAudioEncoder

from sglang_speechlm.audio import encoder_length
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.demo.recipe.examples import IGNORED, Batch

STREAM_WEIGHTS = (3.0, 2.0, 1.5, 1.0, 0.7, 0.5, 0.5, 0.5)
HEARING = ("audio_tower.", "adaptor.", "nothing_new")
"""Name prefixes of the parameters that turn clips into embeddings."""
LAYERS = "model.layers."
"""Name prefix of the language model's layers."""
_EOS_WEIGHT = 5.0
_ALIGNED = ((1, 0), (2, 0))
"""Layers and query heads that are trained to look at the word being spoken."""
_HALFWAY = 3
"""Number of layers before the hidden state that predicts the word and the phone."""


@dataclass(frozen=True)
class Losses:
    """Mean losses of a batch, in nats; zero if there is nothing to predict."""

    text: torch.Tensor
    sound: torch.Tensor
    alignment: torch.Tensor
    halfway: torch.Tensor
    recognition: torch.Tensor
    by_stream: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        return self.text + self.sound + 0.3 * (self.alignment + self.halfway + self.recognition)


class Trainee(nn.Module):
    """A SpeechLM for training, with two heads and two vectors that are not exported."""

    def __init__(self, config: SpeechLMConfig, phones: int) -> None:
        super().__init__()
        self.config, self.ids = config, config.ids
        hidden = config.hidden_size
        self.model = Qwen3Model(config.text_config)
        self.model.set_attn_implementation("sdpa")
        self.audio_tower = Qwen3OmniMoeAudioEncoder(config.audio_config)
        self.audio_tower.set_attn_implementation("sdpa")
        self.adaptor = nn.Linear(config.adaptor_input_dim, hidden)
        self.stream_emb = nn.Embedding(config.num_stream, hidden)
        self.hidden_frame = nn.Parameter(torch.zeros(hidden))
        self.nothing_new = nn.Parameter(torch.zeros(hidden))
        self.word_head = nn.Linear(hidden, config.text_token_end)
        self.phone_head = nn.Linear(hidden, phones + 1)
        # transformers' own initial weights are so small that the added position embeddings drown the clip.
        for module in self.audio_tower.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu" if module.weight.ndim > 2 else "linear")
        nn.init.normal_(self.model.embed_tokens.weight, std=0.05)
        nn.init.normal_(self.stream_emb.weight, std=0.05)
        nn.init.normal_(
            self.adaptor.weight, std=0.005
        )  # features have a deviation of 3; this scales them like embeddings

    def forward(self, batch: Batch, hide: torch.Tensor | None = None) -> Losses:
        """Return the losses of a batch.

        Args:
            hide: bool [batch, length], positions whose frames are hidden.
        """
        heard = self.hear([mel for _, _, mel in batch.mels]) if batch.mels else []
        embeds = self.embed(batch, heard)
        if hide is not None:
            embeds = torch.where(hide[..., None], self.hidden_frame, embeds)
        hidden, halfway, alignment = self._run(embeds, batch.word)
        is_text = batch.text != IGNORED
        is_frame = batch.codes[..., 0] != IGNORED
        zero = embeds.new_zeros(())
        text = self._text_loss(hidden[is_text], batch.text[is_text]) if is_text.any() else zero
        by_stream = (
            self._sound_losses(hidden[is_frame], batch.codes[is_frame])
            if is_frame.any()
            else zero.expand(self.ids.num_stream)
        )
        weights = torch.tensor(STREAM_WEIGHTS)
        halfway_loss = zero
        is_spoken = batch.phone != IGNORED
        if is_spoken.any():
            state = halfway[is_spoken]
            word = batch.frames[..., 0].gather(1, batch.word[..., 0].clamp_min(0))[is_spoken]
            halfway_loss = functional.cross_entropy(self.word_head(state), word)
            halfway_loss = halfway_loss + functional.cross_entropy(self.phone_head(state), batch.phone[is_spoken])
        sound = (by_stream * weights).sum() / weights.sum()
        recognition = self.recognition_loss(heard, batch.transcripts) if batch.transcripts else zero
        return Losses(text, sound, alignment, halfway_loss, recognition, by_stream.detach())

    def embed(self, batch: Batch, heard: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return [batch, length, hidden]: the summed embeddings of each position, or the features of a clip there."""
        table = self.model.embed_tokens.weight
        embeds = functional.embedding(batch.frames[..., 0], table)
        later = batch.frames[..., 1:]
        rows = (later != 0).any(-1)
        if rows.any():
            embeds = embeds.index_put((rows,), functional.embedding(later[rows], table).sum(1), accumulate=True)
        if batch.mels:
            rows_at = torch.cat(
                [torch.full((len(features),), row) for (row, _, _), features in zip(batch.mels, heard, strict=True)]
            )
            places = [
                torch.arange(first, first + len(features))
                for (_, first, _), features in zip(batch.mels, heard, strict=True)
            ]
            embeds = embeds.index_put((rows_at, torch.cat(places)), torch.cat([*heard]))
        return embeds

    def hear(self, mels: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
        """Return the language model's input for each clip [bins, frames]: [features, hidden]."""
        lengths = torch.tensor([mel.shape[1] for mel in mels])
        features = self.audio_tower(input_features=torch.cat([*mels], 1), feature_lens=lengths).last_hidden_state
        window = self.config.audio_config.n_window
        return self.adaptor(features).split([encoder_length(frames, window) for frames in lengths.tolist()])

    def recognition_loss(self, heard: Sequence[torch.Tensor], transcripts: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return the CTC loss (Graves et al. 2006) of features [features, hidden] against transcripts, ids [n].

        It makes a clip look to the language model like the text in it, which the model can already read.

        Raises:
            ValueError: for an id that is not a text id, which CTC would read out of bounds.
        """
        first, last = self.ids.text_begin, self.ids.text_end
        targets = torch.cat([*transcripts])
        strange = targets[(targets < first) | (targets >= last)].unique().tolist()
        if strange:
            raise ValueError(f"the transcripts have ids {strange}; text has ids {first}..{last - 1}")
        table = torch.cat([self.nothing_new[None], self.model.embed_tokens.weight[first:last].detach()])
        return functional.ctc_loss(
            nn.utils.rnn.pad_sequence([features @ table.T for features in heard]).log_softmax(-1),
            targets - first + 1,
            torch.tensor([len(features) for features in heard]),
            torch.tensor([len(ids) for ids in transcripts]),
            zero_infinity=True,
        )

    def _run(self, hidden: torch.Tensor, word: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the hidden states at the end and half-way, and the misalignment of the aligned heads."""
        places = torch.arange(hidden.shape[1])[None]
        rotary = self.model.rotary_emb(hidden, places)
        alignment = torch.zeros(())
        halfway = hidden
        has_words = bool((word[..., 0] != IGNORED).any())
        for index, layer in enumerate(self.model.layers):
            for at, head in _ALIGNED:
                if at == index and has_words:
                    alignment = alignment + self._misalignment(layer, hidden, rotary, head, word) / len(_ALIGNED)
            hidden = layer(hidden, attention_mask=None, position_ids=places, position_embeddings=rotary)
            if index + 1 == _HALFWAY:
                halfway = hidden
        return self.model.norm(hidden), halfway, alignment

    def _misalignment(
        self,
        layer: Qwen3DecoderLayer,
        hidden: torch.Tensor,
        rotary: tuple[torch.Tensor, torch.Tensor],
        head: int,
        word: torch.Tensor,
    ) -> torch.Tensor:
        """Return -log of a head's attention to the tokens of the word being spoken, where there is one."""
        attention = layer.self_attn
        size = attention.head_dim
        group = attention.num_key_value_groups
        state = layer.input_layernorm(hidden)
        rows = slice(head * size, (head + 1) * size)
        shared = slice(head // group * size, (head // group + 1) * size)
        query = attention.q_norm(functional.linear(state, attention.q_proj.weight[rows]))[:, None]
        key = attention.k_norm(functional.linear(state, attention.k_proj.weight[shared]))[:, None]
        query, key = apply_rotary_pos_emb(query, key, *rotary)
        scores = query[:, 0] @ key[:, 0].transpose(1, 2) * attention.scaling
        length = scores.shape[1]
        places = torch.arange(length)
        scores = scores.masked_fill(places[None, :] > places[:, None], -torch.inf)
        is_spoken = word[..., 0] != IGNORED
        scores = scores[is_spoken]
        first, last = word[is_spoken].unbind(-1)
        inside = (places >= first[:, None]) & (places <= last[:, None])
        return (scores.logsumexp(-1) - scores.masked_fill(~inside, -torch.inf).logsumexp(-1)).mean()

    def _text_loss(self, hidden: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the loss over the ids that a text may consist of: text ids (including pad), eot and eos."""
        ids = self.ids
        table = self.model.embed_tokens.weight[: ids.text_end]
        allowed = torch.zeros(ids.text_end, dtype=torch.bool)
        allowed[ids.text_begin :] = True
        allowed[[ids.pad, ids.eot, ids.eos]] = True
        logits = (hidden @ table.T).masked_fill(~allowed, -torch.inf)
        return functional.cross_entropy(logits, target)

    def _sound_losses(self, hidden: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the losses [streams] of each stream over its own ids, and eos in stream 0."""
        ids = self.ids
        table = self.model.embed_tokens.weight
        losses = []
        for stream in range(ids.num_stream):
            begin = ids.codec_pad(stream)
            rows, wanted, weight, state = table[begin : begin + ids.codec_layer_size], target[:, stream], None, hidden
            local = torch.where(wanted == IGNORED, IGNORED, wanted - begin)
            if stream == 0:
                rows = torch.cat([rows, table[ids.eos : ids.eos + 1]])
                local = torch.where(wanted == ids.eos, ids.codec_layer_size, local)
                weight = torch.ones(len(rows))
                weight[-1] = _EOS_WEIGHT
            else:
                state = hidden + self.stream_emb.weight[stream]
            losses.append(functional.cross_entropy(state @ rows.T, local, weight, ignore_index=IGNORED))
        return torch.stack(losses)
