"""Guided answers without this runtime: the algorithm of the modified vLLM, in plain PyTorch.

It follows the usage guide and the model's documents: each answer has a shadow from the first text token on, although
the shadow only sees pads; a frame takes nine products with the whole vocabulary, the model's own and one per stream;
and each answer's ids are drawn one stream after the other in Python. Attention, norms and products use the same
libraries as the server.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import DynamicCache, Qwen3Model

from sglang_speechlm.config import SpeechLMConfig

TEMPERATURE = 0.8
TOP_K = 20


class Fork:
    """A checkpoint, in its own dtype, on the CPU."""

    def __init__(self, directory: Path) -> None:
        """Read config and weights."""
        self.config = SpeechLMConfig.from_pretrained(directory)
        self._ids = self.config.ids
        tensors: dict[str, Tensor] = {}
        for file in sorted(directory.glob("*.safetensors")):
            tensors |= load_file(file)
        self._head = tensors["lm_head.weight"]
        self._streams = tensors["stream_emb.weight"]
        self._streams[0] = 0
        backbone = {
            name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")
        }
        self._backbone = Qwen3Model(self.config.text_config).to(self._head.dtype).eval()
        self._backbone.load_state_dict(backbone)
        self._embed = self._backbone.embed_tokens.weight

    @torch.inference_mode()
    def answers(self, prompts: list[list[int]], text: int, frames: int, cfg: float) -> list[list[list[int]]]:
        """Generate exactly ``text`` tokens and ``frames`` frames for prompts of equal length, in one batch.

        Returns:
            The frames, [prompt][frame][stream].
        """
        ids = self._ids
        count = len(prompts)
        cache = DynamicCache(config=self._backbone.config)
        first = torch.tensor([*prompts, *([ids.pad] * len(prompt) for prompt in prompts)])
        hidden = self._forward(self._embed[first], cache)
        for _ in range(text):
            logits = self._mask(hidden[:count] @ self._head.T, ids.text_begin, ids.text_end)
            drawn = [self._draw(row) for row in logits]
            hidden = self._forward(self._embed[torch.tensor([*drawn, *[ids.pad] * count])][:, None], cache)
        switch = torch.tensor([[ids.eot, ids.assistant, ids.audio]] * count + [[ids.pad, ids.pad, ids.audio]] * count)
        hidden = self._forward(self._embed[switch], cache)
        spoken: list[list[list[int]]] = [[] for _ in prompts]
        for _ in range(frames):
            _own = hidden @ self._head.T  # the model's own product, in addition to those of the eight streams
            streams = [self._guided(hidden + stream, cfg) for stream in self._streams]
            for answer in range(count):
                frame = []
                for stream, logits in enumerate(streams):
                    pad = ids.codec_pad(stream)
                    frame.append(self._draw(self._mask(logits[answer], pad, pad + ids.codec_layer_size)))
                spoken[answer].append(frame)
            last = torch.tensor([answer[-1] for answer in spoken] * 2)
            hidden = self._forward(self._embed[last].sum(dim=1, keepdim=True), cache)
        return spoken

    def _forward(self, embeddings: Tensor, cache: DynamicCache) -> Tensor:
        """Return the hidden states [rows, hidden] of the last position."""
        output = self._backbone(inputs_embeds=embeddings, past_key_values=cache, use_cache=True)
        last: Tensor = output.last_hidden_state[:, -1]
        return last

    def _guided(self, hidden: Tensor, cfg: float) -> Tensor:
        conditional, unconditional = (hidden @ self._head.T).chunk(2)
        return conditional * cfg + unconditional * (1 - cfg)

    def _mask(self, logits: Tensor, first: int, last: int) -> Tensor:
        """Mask all ids outside [first, last)."""
        masked = torch.full_like(logits, float("-inf"))
        masked[..., first:last] = logits[..., first:last]
        return masked

    def _draw(self, logits: Tensor) -> int:
        best, places = logits.float().topk(TOP_K)
        return int(places[torch.multinomial(torch.softmax(best / TEMPERATURE, dim=-1), 1)].item())
