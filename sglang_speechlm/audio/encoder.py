"""The audio tower: mel frames of one clip to features for the adaptor."""

from __future__ import annotations

import torch
from torch import nn
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeAudioEncoderConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeAudioEncoder

from sglang_speechlm.audio.lengths import conv_length, encoder_length


class AudioEncoder(nn.Module):
    """transformers' Qwen3-Omni audio encoder, correct for every ``n_window`` and ``n_window_infer``.

    The tensors are named ``audio_tower.*``, as in transformers and in the checkpoint.

    transformers 5.12 derives which convolution outputs are real, and where attention windows end, from a length
    formula that is correct only for ``n_window`` 50; this class passes both explicitly instead.

    Raises:
        ValueError: if an attention window is shorter than a chunk.
    """

    def __init__(self, config: Qwen3OmniMoeAudioEncoderConfig) -> None:
        super().__init__()
        self.n_window = config.n_window
        chunk = 2 * config.n_window
        if config.n_window_infer < chunk:
            raise ValueError(
                f"audio_config.n_window_infer {config.n_window_infer} must be at least one chunk, "
                f"2 * n_window = {chunk}"
            )
        self._attention_window = conv_length(chunk) * (config.n_window_infer // chunk)
        self.audio_tower = Qwen3OmniMoeAudioEncoder(config)
        # Neither this nor eager attention needs flash-attn; both run window by window, linear in the clip's length.
        self.audio_tower.set_attn_implementation("sdpa")

    def length(self, frames: int) -> int:
        """Return the number of features of a clip of ``frames`` mel frames."""
        return encoder_length(frames, self.n_window)

    @torch.no_grad()
    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        """Return features ``[length(frames), output_dim]`` of a clip's mel ``[num_mel_bins, frames]``, ``frames >= 1``.

        The clip is cut into chunks of ``2 * n_window`` frames. A shorter last chunk is zero-padded to that size if
        there are others; a clip of a single short chunk is not padded, as in transformers and ESPnet. Features attend
        to each other within windows of ``n_window_infer // (2 * n_window)`` chunks. Each call takes one clip, so the
        result cannot depend on other clips.

        ``mel`` may have any floating dtype and device; the result has the tower's.
        """
        frames = mel.shape[1]
        length = self.length(frames)
        weight = self.audio_tower.conv2d1.weight
        window_ends = [*range(0, length, self._attention_window), length]
        output = self.audio_tower(
            input_features=mel.to(weight),
            # On the host, because the encoder only turns these two into lists of ints, in every layer.
            feature_lens=torch.tensor([frames]),
            cu_seqlens=torch.tensor(window_ends, dtype=torch.int32),
            # The padding lies at the end of the last chunk, so that the real outputs are simply the first ones.
            valid_indices=torch.arange(length, device=weight.device),
        )
        return output.last_hidden_state
