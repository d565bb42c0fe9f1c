"""A small Xcodec for one voice: mel features, quantized in eight steps, and a decoder trained to reproduce them.

The features of a frame (20 ms) are 80 log-mel bands, turned into 64 principal components. Residual k-means gives the
eight codebooks, so that nothing is trained jointly with the quantizer. The encoder's path is then fitted to the same
features, which makes the result a whole Xcodec that transformers loads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from scipy.cluster.vq import kmeans2
from tqdm import tqdm
from transformers import XcodecConfig, XcodecModel
from transformers.audio_utils import mel_filter_bank

RATE = 16_000
HOP = 320
BANDS = 80
STREAMS = 8
CODEBOOK_SIZE = 256
_WINDOW = 1024
_COMPONENTS = 64
_SEMANTIC = 16
_FLOOR = 1e-4
_KMEANS_FRAMES = 100_000
_KMEANS_TURNS = 25
_LEAST_STREAMS = 3
"""The decoder is trained with the first 3 to 8 codes of each stretch, because the last codes are the least certain."""
_STRETCH = 40
"""Frames of a training example."""


def new_codec() -> XcodecModel:
    """Return the untrained codec: 0.5 G multiplications per second of sound."""
    config = XcodecConfig(
        codebook_size=CODEBOOK_SIZE,
        target_bandwidths=[STREAMS * math.log2(CODEBOOK_SIZE) * RATE / HOP / 1000],
        acoustic_model_config={
            "model_type": "dac",
            "encoder_hidden_size": 8,
            "downsampling_ratios": [8, 5, 4, 2],
            "decoder_hidden_size": 192,
            "upsampling_ratios": [8, 5, 4, 2],
            "hidden_size": _COMPONENTS - _SEMANTIC,
        },
        semantic_model_config={
            "model_type": "hubert",
            "hidden_size": _SEMANTIC,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": _SEMANTIC,
            "conv_dim": [8] * 7,
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
    )
    model = XcodecModel(config)
    # transformers' own initial weights are so small that the output is silent for hundreds of steps.
    for module in (*model.acoustic_encoder.modules(), *model.acoustic_decoder.modules()):
        if isinstance(module, torch.nn.Conv1d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    return model


def log_mel(samples: npt.NDArray[np.int16]) -> torch.Tensor:
    """Return mel features, float32 [frames, BANDS], of int16 [n] samples; frame ``t`` is centred on code ``t``."""
    frames = -(-len(samples) // HOP)
    sound = torch.from_numpy(samples.astype(np.float32) / 32768)
    side = (_WINDOW - HOP) // 2
    sound = torch.nn.functional.pad(sound, (side, side + frames * HOP - len(samples)))
    spectrum = torch.stft(sound, _WINDOW, HOP, window=torch.hann_window(_WINDOW), center=False, return_complex=True)
    mel = _filters(_WINDOW).T @ spectrum.abs()
    return mel.clamp_min(_FLOOR).log().T


class Quantizer:
    """Mel features to codes, with an Xcodec's own codebooks.

    Attributes:
        mean: [BANDS].
        basis: [BANDS, components].
    """

    def __init__(self, mean: torch.Tensor, basis: torch.Tensor, codec: XcodecModel) -> None:
        self.mean, self.basis, self._codec = mean, basis, codec

    @classmethod
    def fit(cls, mels: torch.Tensor, codec: XcodecModel, seed: int = 0) -> Quantizer:
        """Fit the components and the codebooks of ``codec`` to frames ``[n, BANDS]``."""
        mean = mels.mean(0)
        _, _, directions = torch.linalg.svd(mels[:: max(1, len(mels) // _KMEANS_FRAMES)] - mean, full_matrices=False)
        basis = directions[:_COMPONENTS].T.contiguous()
        chosen = torch.randperm(len(mels), generator=torch.Generator().manual_seed(seed))[:_KMEANS_FRAMES]
        residual = (mels[chosen] - mean) @ basis
        for level, quantizer in enumerate(tqdm(codec.quantizer.quantizers, desc="Codebooks", unit="book")):
            found, labels = kmeans2(residual.numpy(), CODEBOOK_SIZE, _KMEANS_TURNS, minit="points", rng=seed + level)
            centers = torch.from_numpy(found).float()
            quantizer.codebook.embed.copy_(centers)
            quantizer.codebook.embed_avg.copy_(centers)
            residual = residual - centers[torch.from_numpy(labels).long()]
        return cls(mean, basis, codec)

    @torch.no_grad()
    def components(self, mel: torch.Tensor) -> torch.Tensor:
        """Return the components [frames, components] of mel [frames, BANDS]."""
        return (mel - self.mean) @ self.basis

    @torch.no_grad()
    def codes(self, mel: torch.Tensor) -> torch.Tensor:
        """Return the codes, int64 [frames, STREAMS], of mel [frames, BANDS]."""
        return self._codec.quantizer.encode(self.components(mel).T[None])[:, 0].T


def train_decoder(
    codec: XcodecModel,
    codes: Sequence[torch.Tensor],
    sounds: Sequence[npt.NDArray[np.int16]],
    *,
    steps: int,
    batch: int = 12,
    rate: float = 8e-4,
    seed: int = 0,
) -> None:
    """Train ``fc2`` and the decoder: codes [frames, STREAMS] to samples [n], by spectra of several resolutions."""
    random = torch.Generator().manual_seed(seed)
    parameters = [*codec.fc2.parameters(), *codec.acoustic_decoder.parameters()]
    optimizer = torch.optim.AdamW(parameters, rate, betas=(0.8, 0.95), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.05)
    padded = [np.pad(sound, (0, len(code) * HOP - len(sound))) for sound, code in zip(sounds, codes, strict=True)]
    usable = [index for index, code in enumerate(codes) if len(code) >= _STRETCH]
    books = torch.stack([quantizer.codebook.embed for quantizer in codec.quantizer.quantizers])
    progress = tqdm(range(steps), desc="Decoder", unit="step")
    for _ in progress:
        picked, wanted = [], []
        for index in torch.randint(len(usable), (batch,), generator=random).tolist():
            code, sound = codes[usable[index]], padded[usable[index]]
            first = int(torch.randint(len(code) - _STRETCH + 1, (), generator=random))
            picked.append(code[first : first + _STRETCH])
            wanted.append(torch.from_numpy(sound[first * HOP : (first + _STRETCH) * HOP].astype(np.float32) / 32768))
        taken = torch.stack(picked)
        embedded = torch.stack(
            [books[s][taken[..., s]] for s in range(STREAMS)]
        )  # [streams, batch, frames, components]
        kept = torch.randint(_LEAST_STREAMS, STREAMS + 1, (batch,), generator=random)
        mask = torch.arange(STREAMS)[:, None] < kept
        quantized = (embedded * mask[..., None, None]).sum(0)
        sound = codec.acoustic_decoder(codec.fc2(quantized).transpose(1, 2))
        loss = spectral_loss(sound.squeeze(1), torch.stack(wanted))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def train_encoder(
    codec: XcodecModel,
    components: Sequence[torch.Tensor],
    sounds: Sequence[npt.NDArray[np.int16]],
    *,
    steps: int,
    batch: int = 16,
    rate: float = 2e-3,
    seed: int = 0,
) -> None:
    """Fit the acoustic encoder and ``fc`` to the components [frames, components] that the quantizer was made for."""
    random = torch.Generator().manual_seed(seed)
    parameters = [*codec.acoustic_encoder.parameters(), *codec.fc.parameters()]
    optimizer = torch.optim.AdamW(parameters, rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.05)
    usable = [index for index, frames in enumerate(components) if len(frames) >= _STRETCH + 2]
    progress = tqdm(range(steps), desc="Encoder", unit="step")
    for _ in progress:
        heard, wanted = [], []
        for index in torch.randint(len(usable), (batch,), generator=random).tolist():
            target, sound = components[usable[index]], sounds[usable[index]]
            first = int(torch.randint(len(target) - _STRETCH - 1, (), generator=random))
            heard.append(torch.from_numpy(sound[first * HOP : (first + _STRETCH) * HOP].astype(np.float32) / 32768))
            wanted.append(target[first : first + _STRETCH])
        acoustic = codec.acoustic_encoder(torch.stack(heard)[:, None])
        silent = acoustic.new_zeros(batch, _SEMANTIC, acoustic.shape[2])
        found = codec.fc(torch.cat([acoustic, silent], 1).transpose(1, 2))
        loss = torch.nn.functional.mse_loss(found[:, 2:-2], torch.stack(wanted)[:, 2:-2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        progress.set_postfix(loss=f"{loss.item():.3f}", refresh=False)
    with torch.no_grad():
        codec.fc.weight[:, -_SEMANTIC:] = 0  # the semantic half is untrained and must have no effect


def spectral_loss(sound: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the distance of samples [batch, n] in magnitudes and their logs (Parallel WaveGAN), and in mel."""
    loss = sound.new_zeros(())
    for size in (128, 256, 512, 1024, 2048):
        window = torch.hann_window(size)
        made, target = (
            torch.stft(samples, size, size // 4, window=window, return_complex=True).abs().clamp_min(1e-5)
            for samples in (sound, wanted)
        )
        loss = loss + (made - target).norm() / target.norm() + (made.log() - target.log()).abs().mean()
        if size in (512, 1024):
            filters = _filters(size)
            bands = [(filters.T @ magnitudes).clamp_min(_FLOOR).log() for magnitudes in (made, target)]
            loss = loss + (bands[0] - bands[1]).abs().mean()
    return loss


_FILTERS: dict[int, torch.Tensor] = {}


def _filters(size: int) -> torch.Tensor:
    """Return triangular filters [size // 2 + 1, BANDS]."""
    if size not in _FILTERS:
        filters = mel_filter_bank(size // 2 + 1, BANDS, 0.0, RATE / 2, RATE, norm=None, mel_scale="htk")
        _FILTERS[size] = torch.from_numpy(filters).float()
    return _FILTERS[size]
