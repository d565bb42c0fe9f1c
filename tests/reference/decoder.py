"""The decoder itself: greedy text, then greedy audio, one position at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, DynamicCache, Qwen3Model, XcodecConfig, XcodecModel
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeAudioEncoder

from sglang_speechlm.config import SpeechLMConfig

from .frames import delay, undelay
from .hearing import encode_clip, mel_frames
from .prompt import Row, control, prompt_rows
from .request import Answer, Message, Request, TeacherForced

AUDIO_TOWER = "multimodal_io_dict.continuous_audio.model.audio_tower."
CODEC = "multimodal_io_dict.discrete_audio.codec_model."


class Context:
    """One sequence and its KV cache.

    Args:
        guesses: rows that may follow the first ones. They are computed together with the first ones, which is much
            faster than one by one, and are used up to the first that differs from what is fed.
    """

    def __init__(self, reference: Reference, guesses: Sequence[Row] = ()) -> None:
        self._reference = reference
        self._cache = DynamicCache(config=reference.backbone.config)
        self._length = 0
        self._guesses = list(guesses)
        self._ahead: list[Tensor] = []

    def feed(self, rows: Sequence[Row]) -> Tensor:
        """Append rows; return their hidden states [len(rows), hidden] after the last norm."""
        begin, self._length = self._length, self._length + len(rows)
        if begin == 0:
            hidden = self._compute([*rows, *self._guesses])
            self._ahead = list(hidden[len(rows) :])
            return hidden[: len(rows)]
        if self._ahead and list(rows) == self._guesses[:1]:
            self._guesses.pop(0)
            return self._ahead.pop(0)[None]
        if self._ahead:
            self._ahead = []
            self._cache.crop(begin)
        return self._compute(rows)

    def _compute(self, rows: Sequence[Row]) -> Tensor:
        embeddings = self._reference.embed(rows)[None]
        output = self._reference.backbone(inputs_embeds=embeddings, past_key_values=self._cache, use_cache=True)
        return output.last_hidden_state[0]


@dataclass(frozen=True)
class TextPhase:
    """Generated text.

    Attributes:
        ids: the generated ids, including the one that ended the text.
        end: that id; None if a limit cut the text.
        margin: see ``Answer``.
    """

    ids: list[int]
    end: int | None
    margin: float


@dataclass(frozen=True)
class AudioPhase:
    """Generated audio.

    Attributes:
        frames: [F][num_stream] ids without the frame of eos.
        ended: whether eos ended the audio.
        margin: see ``Answer``.
    """

    frames: list[list[int]]
    ended: bool
    margin: float


class Reference:
    """A SpeechLM checkpoint in float32 on the CPU.

    Raises:
        RuntimeError, KeyError: if a tensor is missing, or its shape does not match the config.
        ValueError: if there is an unexpected tensor.
    """

    def __init__(self, config: SpeechLMConfig, tensors: dict[str, Tensor], tokenizer: Any, directory: Path) -> None:
        self.config = config
        self.ids = config.ids
        self.tokenizer = tokenizer
        self._directory = directory
        tensors = {name: tensor.float() for name, tensor in tensors.items()}
        self.backbone = Qwen3Model(config.text_config).eval()
        self.backbone.load_state_dict(_take(tensors, "model."))
        self.encoder = Qwen3OmniMoeAudioEncoder(config.audio_config).eval()
        self.encoder.load_state_dict(_take(tensors, AUDIO_TOWER))
        self.embed_tokens = self.backbone.embed_tokens.weight.detach()
        tied = config.text_config.tie_word_embeddings
        self.lm_head = self.embed_tokens if tied else tensors.pop("lm_head.weight")
        self.adaptor_weight = tensors.pop("adaptor.continuous_audio.weight")
        self.adaptor_bias = tensors.pop("adaptor.continuous_audio.bias")
        self.stream_emb = tensors.pop("stream_emb.weight").clone()
        self.stream_emb[0] = 0
        self._codec_tensors = _take(tensors, CODEC)
        self._codec: Any = None
        if tensors:
            raise ValueError(f"tensors that a SpeechLM does not have: {sorted(tensors)}")

        ids = self.ids
        self.text_candidates = torch.tensor(sorted([ids.eos, ids.eot]) + list(range(ids.text_begin, ids.text_end)))
        self.audio_candidates = torch.tensor(
            [
                [ids.eos, *range(ids.codec_pad(stream), ids.codec_pad(stream) + ids.codec_layer_size)]
                for stream in range(ids.num_stream)
            ]
        )

    @classmethod
    def load(cls, directory: str | Path) -> Reference:
        """Read config.json, the tokenizer and every safetensors file of a served directory."""
        directory = Path(directory)
        tensors: dict[str, Tensor] = {}
        for file in sorted(directory.glob("*.safetensors")):
            tensors |= load_file(file)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        return cls(SpeechLMConfig.from_pretrained(directory), tensors, tokenizer, directory)

    # Prompt

    def encode(self, text: str) -> list[int]:
        """Ids of a text in a prompt. The directory's tokenizer already gives SpeechLM ids."""
        tokens = self.tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)
        if self.config.text_id_zero_is_pad:
            tokens = [self.ids.pad if token == self.ids.text_begin else token for token in tokens]
        return tokens

    @torch.inference_mode()
    def hear(self, waveform: np.ndarray) -> Tensor:
        """Continuous features [k, hidden] of a float32 waveform [n] at 16 kHz."""
        mel = mel_frames(waveform, self.config.audio_config.num_mel_bins, self.config.audio_frontend)
        return F.linear(encode_clip(self.encoder, mel), self.adaptor_weight, self.adaptor_bias)

    def prompt(self, messages: Sequence[Message]) -> list[Row]:
        """Rows of a conversation, up to and including the <assistant> that opens the reply."""
        return prompt_rows(messages, self.ids, self.encode, self.hear)

    # Model

    def embed(self, rows: Sequence[Row]) -> Tensor:
        """Input embeddings [len(rows), hidden]: the sum over a row's streams, or the row's own feature.

        An id 0 in streams 1.. is an empty cell; in stream 0 it is the pad id with its real embedding.
        """
        embeddings = []
        for row in rows:
            if isinstance(row, Tensor):
                embeddings.append(row)
                continue
            embedding = self.embed_tokens[row[0]].clone()
            for token in row[1:]:
                if token != 0:
                    embedding += self.embed_tokens[token]
            embeddings.append(embedding)
        return torch.stack(embeddings)

    def text_logits(self, hidden: Tensor, step: int) -> Tensor:
        """Masked logits [C] of ``text_candidates`` from a hidden state [hidden], for text id ``step``."""
        logits = F.linear(hidden, self.lm_head)[self.text_candidates]
        if step == 0:
            logits[(self.text_candidates == self.ids.eos) | (self.text_candidates == self.ids.eot)] = -torch.inf
        return logits

    def audio_logits(self, hidden: Tensor) -> Tensor:
        """Raw logits [num_stream, codec_layer_size + 1] of ``audio_candidates`` from a hidden state [hidden]."""
        return F.linear(hidden + self.stream_emb, self.lm_head).gather(-1, self.audio_candidates)

    def mask_audio(self, logits: Tensor, step: int, min_frames: int) -> Tensor:
        """Mask ``audio_logits`` for frame ``step``: only stream 0 may give eos, and only after min_frames frames."""
        masked = logits.clone()
        masked[1:, 0] = -torch.inf
        if step < min_frames:
            masked[0, 0] = -torch.inf
        return masked

    # Generation

    @torch.inference_mode()
    def generate_text(
        self, rows: Sequence[Row], limit: int, stop_ids: Sequence[int] = (), guesses: Sequence[int] = ()
    ) -> TextPhase:
        """Generate at most ``limit`` ids after ``rows``, which end in <assistant> <text>.

        Args:
            guesses: ids that may be generated; see ``Context``.
        """
        context = Context(self, [control(token, self.ids) for token in guesses])
        hidden = context.feed(rows)[-1]
        tokens: list[int] = []
        margin = float("inf")
        while len(tokens) < limit:
            logits = self.text_logits(hidden, len(tokens))
            margin = min(margin, _margin(logits))
            token = int(self.text_candidates[logits.argmax()])
            tokens.append(token)
            if token in (self.ids.eot, self.ids.eos, *stop_ids):
                return TextPhase(tokens, token, margin)
            hidden = context.feed([control(token, self.ids)])[-1]
        return TextPhase(tokens, None, margin)

    @torch.inference_mode()
    def generate_audio(
        self,
        rows: Sequence[Row],
        limit: int,
        min_frames: int | None = None,
        cfg: float = 1.0,
        guesses: Sequence[Row] = (),
    ) -> AudioPhase:
        """Generate at most ``limit`` frames, including the frame of eos, after ``rows`` and <audio>.

        If cfg > 1, the unconditional context is a pad row for each of ``rows``, then the same <audio> and frames.

        Args:
            rows: all positions before <audio>, so they end in <assistant>.
            min_frames: no eos before this many frames; num_stream if None.
            guesses: frames that may be generated; see ``Context``.
        """
        if min_frames is None:
            min_frames = self.ids.num_stream
        audio = control(self.ids.audio, self.ids)
        conditional = Context(self, guesses)
        hidden = conditional.feed([*rows, audio])[-1]
        if cfg > 1:
            unconditional = Context(self, guesses)
            unconditional_hidden = unconditional.feed([*self.pads(len(rows)), audio])[-1]
        frames: list[list[int]] = []
        margin = float("inf")
        while len(frames) < limit:
            logits = self.audio_logits(hidden)
            if cfg > 1:
                logits = guide(logits, self.audio_logits(unconditional_hidden), cfg)
            logits = self.mask_audio(logits, len(frames), min_frames)
            frame = [
                int(self.audio_candidates[stream, logits[stream].argmax()]) for stream in range(self.ids.num_stream)
            ]
            if frame[0] == self.ids.eos:
                return AudioPhase(frames, True, min(margin, _margin(logits[0])))
            margin = min(margin, _margin(logits))
            frames.append(frame)
            hidden = conditional.feed([frame])[-1]
            if cfg > 1:
                unconditional_hidden = unconditional.feed([frame])[-1]
        return AudioPhase(frames, False, margin)

    def answer(self, request: Request, text_ids: Sequence[int] = (), codes: np.ndarray | None = None) -> Answer:
        """Answer a request greedily; ``Request`` describes its limits.

        Args:
            text_ids: guesses at the answer's ids; they affect only how long this takes.
            codes: guesses at the answer's codes, [T, num_stream].
        """
        ids = self.ids
        rows = [*self.prompt(request.messages), control(ids.text, ids)]
        if request.text is None:
            limit = _limit(request.max_tokens, request.text_max_tokens)
            text = self.generate_text(rows, limit, request.stop_token_ids, text_ids)
            frames_left = request.max_tokens - len(text.ids)
        else:
            text = TextPhase([*self.encode(request.text), ids.eot], ids.eot, float("inf"))
            frames_left = request.max_tokens
        if not request.speak:
            return Answer(text.ids, text.end, "length" if text.end is None else "stop", None, None, text.margin)
        if frames_left == 0:
            return Answer(text.ids, text.end, "length", None, None, text.margin)
        audio = self.generate_audio(
            self._before_audio(rows, text.ids),
            _limit(frames_left, request.audio_max_frames),
            request.audio_min_frames,
            request.cfg,
            [] if codes is None else delay(codes, ids),
        )
        return Answer(
            text.ids,
            text.end,
            "stop" if audio.ended else "length",
            np.array(audio.frames, dtype=np.int64).reshape(-1, ids.num_stream),
            undelay(audio.frames, ids),
            min(text.margin, audio.margin),
        )

    # Judging another decoder's answer

    @torch.inference_mode()
    def teacher_forced_logits(
        self, request: Request, text_ids: Sequence[int], frames: np.ndarray | None = None
    ) -> TeacherForced:
        """Logits at every step of an answer to ``request``, from one forward pass for each phase.

        Args:
            text_ids: as in ``Answer``: including the id that ended the text, and eot after a given text.
            frames: [F, num_stream] ids as in ``Answer``, without the frame of eos.

        Raises:
            ValueError: if an id is not a candidate of its stream.
        """
        ids = self.ids
        rows = [*self.prompt(request.messages), control(ids.text, ids)]
        text_logits = torch.empty(0, len(self.text_candidates))
        generated = list(text_ids) if request.text is None else []
        if generated:
            hidden = Context(self).feed([*rows, *(control(token, ids) for token in generated[:-1])])
            steps = hidden[len(rows) - 1 :]
            text_logits = torch.stack([self.text_logits(state, step) for step, state in enumerate(steps)])
        text_ranks, text_regrets = _ranks_and_regrets(
            text_logits, self.text_candidates, torch.tensor(generated, dtype=torch.int64)
        )
        if frames is None:
            return TeacherForced(
                self.text_candidates, text_logits, text_ranks, text_regrets, self.audio_candidates,
                None, None, None, None, None,
            )  # fmt: skip

        before = self._before_audio(rows, text_ids)
        after = [control(ids.audio, ids), *frames.tolist()]
        hidden = Context(self).feed([*before, *after])[len(before) :]
        logits = torch.stack([self.audio_logits(state) for state in hidden])
        if request.cfg > 1:
            hidden = Context(self).feed([*self.pads(len(before)), *after])[len(before) :]
            logits = guide(logits, torch.stack([self.audio_logits(state) for state in hidden]), request.cfg)
        min_frames = ids.num_stream if request.audio_min_frames is None else request.audio_min_frames
        logits = torch.stack([self.mask_audio(step, index, min_frames) for index, step in enumerate(logits)])
        audio_ranks, audio_regrets = _ranks_and_regrets(logits[:-1], self.audio_candidates, torch.from_numpy(frames))
        eos_rank, eos_regret = _ranks_and_regrets(logits[-1, 0], self.audio_candidates[0], torch.tensor(ids.eos))
        return TeacherForced(
            self.text_candidates, text_logits, text_ranks, text_regrets, self.audio_candidates,
            logits, audio_ranks, audio_regrets, int(eos_rank), float(eos_regret),
        )  # fmt: skip

    # Codec

    @torch.inference_mode()
    def audio(self, codes: np.ndarray) -> np.ndarray:
        """Waveform float32 [T * hop] of code indices [T, num_stream]."""
        if self._codec is None:
            self._codec = self._load_codec()
        return self._codec.decode(torch.from_numpy(codes).T[None]).audio_values.flatten().numpy()

    def _load_codec(self) -> Any:
        tag = self.config.xcodec_hf_model_tag
        source = self._directory / tag if (self._directory / tag).is_dir() else tag
        if not self._codec_tensors:
            return XcodecModel.from_pretrained(source, dtype=torch.float32).eval()
        codec = XcodecModel(XcodecConfig.from_pretrained(source)).eval()
        codec.load_state_dict(self._codec_tensors)
        return codec

    def pads(self, count: int) -> list[Row]:
        """``count`` pad rows, the unconditional branch's context."""
        return [control(self.ids.pad, self.ids) for _ in range(count)]

    def _before_audio(self, rows: Sequence[Row], text_ids: Sequence[int]) -> list[Row]:
        return [*rows, *(control(token, self.ids) for token in text_ids), control(self.ids.assistant, self.ids)]


def guide(conditional: Tensor, unconditional: Tensor, cfg: float) -> Tensor:
    """Classifier-free guidance on raw logits."""
    return conditional * cfg + unconditional * (1 - cfg)


def _take(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Remove the tensors under a prefix; return them under names without it."""
    names = [name for name in tensors if name.startswith(prefix)]
    return {name.removeprefix(prefix): tensors.pop(name) for name in names}


def _limit(budget: int, narrower: int | None) -> int:
    return budget if narrower is None else min(budget, narrower)


def _margin(logits: Tensor) -> float:
    """Smallest gap between the best and the second best logit over all rows of [..., C]."""
    best = logits.topk(2, dim=-1).values
    return float((best[..., 0] - best[..., 1]).min())


def _ranks_and_regrets(logits: Tensor, candidates: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Rank and regret of the ids ``chosen`` [...] in logits [..., C], whose columns are the ids ``candidates``.

    A masked id has an infinite regret.
    """
    is_chosen = candidates == chosen[..., None]
    if not bool(is_chosen.any(-1).all()):
        raise ValueError(f"ids that are not candidates of their stream: {chosen[~is_chosen.any(-1)].tolist()}")
    chosen_logits = logits.gather(-1, is_chosen.int().argmax(-1, keepdim=True))
    return (logits > chosen_logits).sum(-1), logits.amax(-1) - chosen_logits[..., 0]
