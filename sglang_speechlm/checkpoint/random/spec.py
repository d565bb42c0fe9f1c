"""The sizes of a random checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sglang_speechlm.config import SpeechLMConfig

_TEXT_BEGIN = 256


@dataclass(frozen=True)
class CheckpointSpec:
    """The sizes for :func:`sglang_speechlm.checkpoint.build_checkpoint`; the defaults yield 3 MB that answer fast.

    ``text_vocab_size`` 151936 with ``codec_layer_size`` 1025 gives the released model's 160,392 ids.
    """

    hidden_size: int = 96
    intermediate_size: int = 192
    layers: int = 3
    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 16
    max_position_embeddings: int = 4096
    tie_word_embeddings: bool = False
    text_vocab_size: int = 768
    """Number of text ids, including unused ones."""
    num_stream: int = 8
    codec_layer_size: int = 65
    """Number of ids per stream: the codec pad and the codes."""
    audio_layers: int = 2
    audio_heads: int = 2
    audio_d_model: int = 32
    audio_ffn_dim: int = 64
    audio_output_dim: int = 48
    audio_downsample_hidden_size: int = 8
    n_window: int = 50
    n_window_infer: int = 800
    codec_storage: Literal["tensors", "directory"] = "tensors"
    """Place of the Xcodec's weights: among the checkpoint's tensors, as released, or in its ``xcodec`` directory."""
    codec_size: Literal["small", "full"] = "small"
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of everything but the codec, which is always float32."""
    logit_scale: float = 16.0
    """Standard deviation of the logits, which separates the best two."""
    eot_gain: float = 1.7
    """Deviation of eot's logit relative to other ids'; the larger it is, the sooner a text ends."""
    eos_gain: float = 1.2
    """The same for eos, which ends a text or the audio."""
    seed: int = 2
    shard_bytes: int = 4 * 1024**3

    def config(self) -> SpeechLMConfig:
        """Return the config of this checkpoint.

        Raises:
            ValueError: if the sizes contradict each other.
        """
        text_end = _TEXT_BEGIN + self.text_vocab_size
        return SpeechLMConfig(
            text_config={
                "hidden_size": self.hidden_size,
                "intermediate_size": self.intermediate_size,
                "num_hidden_layers": self.layers,
                "num_attention_heads": self.heads,
                "num_key_value_heads": self.kv_heads,
                "head_dim": self.head_dim,
                "rope_theta": 1_000_000.0,
                "rms_norm_eps": 1e-6,
                "max_position_embeddings": self.max_position_embeddings,
                "tie_word_embeddings": self.tie_word_embeddings,
                "dtype": self.dtype,
            },
            audio_config={
                "num_mel_bins": 128,
                "encoder_layers": self.audio_layers,
                "encoder_attention_heads": self.audio_heads,
                "encoder_ffn_dim": self.audio_ffn_dim,
                "d_model": self.audio_d_model,
                "n_window": self.n_window,
                "n_window_infer": self.n_window_infer,
                "output_dim": self.audio_output_dim,
                "downsample_hidden_size": self.audio_downsample_hidden_size,
                "conv_chunksize": 500,
                "max_source_positions": 1500,
                "dtype": self.dtype,
            },
            num_stream=self.num_stream,
            adaptor_input_dim=self.audio_output_dim,
            vocab_size=text_end + self.num_stream * self.codec_layer_size,
            codec_base_offset=text_end,
            codec_layer_size=self.codec_layer_size,
            text_token_offset=_TEXT_BEGIN,
            text_token_end=text_end,
            xcodec_hf_model_tag="xcodec",
            tie_word_embeddings=self.tie_word_embeddings,
            dtype=self.dtype,
        )
