"""The audio encoder's outputs for a clip, computed chunk by chunk."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import WhisperFeatureExtractor
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeAudioEncoder

SAMPLE_RATE = 16000
HOP = 160
MAX_SAMPLES = 30 * SAMPLE_RATE


def mel_frames(waveform: np.ndarray, num_mel_bins: int, frontend: str) -> Tensor:
    """Log-mel frames [num_mel_bins, L] of a float32 waveform [n] at 16 kHz, which is first cut to 30 s.

    - "bagpiper": zero mean and unit variance, L = floor(n / 160).
    - "espnet": zero mean and unit variance, then zero-padded to 30 s, L = ceil(n / 160).
    - "fork": not normalised, zero-padded to whole hops, L = ceil(n / 160).
    """
    waveform = waveform[:MAX_SAMPLES].astype(np.float32)
    num_frames = len(waveform) // HOP if frontend == "bagpiper" else -(-len(waveform) // HOP)
    if frontend in ("bagpiper", "espnet"):
        waveform = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
    if frontend == "espnet":
        waveform = np.pad(waveform, (0, MAX_SAMPLES - len(waveform)))
    elif frontend == "fork":
        waveform = np.pad(waveform, (0, num_frames * HOP - len(waveform)))
    extractor = WhisperFeatureExtractor(feature_size=num_mel_bins)
    mel = extractor(waveform, sampling_rate=SAMPLE_RATE, padding="do_not_pad", return_tensors="pt").input_features[0]
    return mel[:, :num_frames]


def encode_clip(encoder: Qwen3OmniMoeAudioEncoder, mel: Tensor) -> Tensor:
    """Encoder outputs [K, output_dim] of mel frames [num_mel_bins, L] of one clip.

    With c = 2 * n_window, K = (L // c) * conv(c) + conv(L % c), where conv(n) is (n - 1) // 2 + 1 three times and
    conv(0) is 0.
    """
    config = encoder.config
    chunks = list(mel.split(2 * config.n_window, dim=1))
    longest = max(chunk.shape[1] for chunk in chunks)
    outputs = []
    for chunk in chunks:
        length = chunk.shape[1]
        planes = F.pad(chunk, (0, longest - length))[None, None]
        for convolution in (encoder.conv2d1, encoder.conv2d2, encoder.conv2d3):
            planes = F.gelu(convolution(planes))
            length = (length - 1) // 2 + 1
        # [1, channels, mel, time] to [time, channels * mel]
        steps = encoder.conv_out(planes[0].permute(2, 0, 1).flatten(1))
        steps = steps + encoder.positional_embedding(len(steps))
        outputs.append(steps[:length])

    chunks_per_window = config.n_window_infer // (2 * config.n_window)
    window_ends = [0]
    for first in range(0, len(outputs), chunks_per_window):
        window_ends.append(window_ends[-1] + sum(len(steps) for steps in outputs[first : first + chunks_per_window]))
    hidden = torch.cat(outputs)
    for layer in encoder.layers:
        hidden = layer(hidden, torch.tensor(window_ends, dtype=torch.int32))[0]
    return encoder.proj2(encoder.act(encoder.proj1(encoder.ln_post(hidden))))
