"""A random Xcodec."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import XcodecConfig

from sglang_speechlm.checkpoint.random.spec import CheckpointSpec

if TYPE_CHECKING:
    from transformers import XcodecModel

_FRAMES_PER_SECOND = 50
_PEAK = 0.5

_SMALL_ACOUSTIC = {
    "model_type": "dac",
    "encoder_hidden_size": 4,
    "downsampling_ratios": [8, 5, 4, 2],
    "decoder_hidden_size": 32,
    "upsampling_ratios": [8, 5, 4, 2],
    "hidden_size": 16,
}
_SMALL_SEMANTIC = {
    "model_type": "hubert",
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": [8] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


def random_codec(spec: CheckpointSpec) -> XcodecModel:
    """An Xcodec with one codebook per stream, 320 samples per frame at 16 kHz, whose sound depends on every code.

    transformers leaves the codebooks at zero and the decoder near silence, so both are set here.
    """
    from transformers import XcodecModel  # takes seconds to import, and who builds no checkpoint need not wait for it

    codebook_size = spec.codec_layer_size - 1
    bits = (codebook_size - 1).bit_length()
    config = XcodecConfig(
        codebook_size=codebook_size,
        target_bandwidths=[spec.num_stream * bits * _FRAMES_PER_SECOND / 1000],
        acoustic_model_config=_SMALL_ACOUSTIC if spec.codec_size == "small" else None,
        semantic_model_config=_SMALL_SEMANTIC if spec.codec_size == "small" else None,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(spec.seed)
        model = XcodecModel(config).eval()
        for quantizer in model.quantizer.quantizers:
            quantizer.codebook.embed.normal_()
        sound = model.decode(torch.randint(codebook_size, (1, spec.num_stream, _FRAMES_PER_SECOND))).audio_values
        last = model.acoustic_decoder.conv2
        last.weight.mul_(_PEAK / sound.abs().max())
        last.bias.zero_()
    return model
