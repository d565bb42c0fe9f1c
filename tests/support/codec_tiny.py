"""A checkpoint folder that contains only a tiny Xcodec, loud enough for a wrong code to be audible."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

from sglang_speechlm.codec.worker.xcodec import CODEC_CONFIG_FOLDER, CODEC_PREFIX
from sglang_speechlm.config import SpeechLMConfig

NUM_STREAM = 3
CODEBOOK_SIZE = 16
HOP = 10


def tiny_config(**changes: Any) -> SpeechLMConfig:
    """Return a config that matches ``tiny_codec``, with ``changes``."""
    fields = {"num_stream": NUM_STREAM, "codec_layer_size": CODEBOOK_SIZE + 1, "xcodec_hop_length": HOP}
    return SpeechLMConfig(**{**fields, **changes})


def tiny_codec() -> Any:
    """Return an XcodecModel with an odd and an even stride, 3 codebooks of 16 codes, and 10 samples per code."""
    from transformers import XcodecConfig, XcodecModel

    torch.manual_seed(0)
    model = XcodecModel(
        XcodecConfig(
            target_bandwidths=[NUM_STREAM * 4 * 16000 / HOP / 1000],
            codebook_size=CODEBOOK_SIZE,
            acoustic_model_config={
                "encoder_hidden_size": 4,
                "downsampling_ratios": [5, 2],
                "upsampling_ratios": [5, 2],
                "decoder_hidden_size": 16,
                "hidden_size": 16,
            },
            semantic_model_config={
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "conv_dim": [8],
                "conv_kernel": [10],
                "conv_stride": [10],
                "num_conv_pos_embeddings": 4,
                "num_conv_pos_embedding_groups": 2,
            },
        )
    ).eval()
    for name, parameter in model.named_parameters():
        if name.startswith(("acoustic_decoder", "fc2")) and name.endswith("weight"):
            fan_in = parameter[0].numel()
            parameter.data.normal_(0, 0.5 * fan_in**-0.5)
    for quantizer in model.quantizer.quantizers:
        quantizer.codebook.embed.normal_()
    return model


def write_checkpoint(folder: Path) -> Path:
    """Write the codec's tensors and config as a SpeechLM checkpoint holds them."""
    model = tiny_codec()
    tensors = {CODEC_PREFIX + name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    model.config.save_pretrained(folder / CODEC_CONFIG_FOLDER)
    return folder


def random_codes(length: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """Return codes ``[length, NUM_STREAM]``."""
    return np.random.default_rng(seed).integers(0, CODEBOOK_SIZE, (length, NUM_STREAM))


def whole_decode(model: Any, codes: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Return the samples ``[T * HOP]`` that XcodecModel itself decodes from ``[T, S]`` codes."""
    with torch.inference_mode():
        return model.decode(torch.from_numpy(codes.T[None])).audio_values[0, 0].numpy()
