"""The config.json of a SpeechLM checkpoint as a transformers configuration.

Three converters write such directories: this package's, and those of two forks of vLLM, which name the ids of the
modalities differently and use their own model types in the nested configs. This module reads all three.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

from transformers import PreTrainedConfig, Qwen3Config
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeAudioEncoderConfig

from sglang_speechlm.config.decoding import TABLE_10, TABLE_10_NAME, check_decoding
from sglang_speechlm.config.ids import Ids

AudioFrontend = Literal["bagpiper", "espnet", "fork"]
"""How a waveform becomes mel frames; see ``sglang_speechlm.audio.mel``."""


class SpeechLMConfig(PreTrainedConfig):
    """Sizes, id ranges and defaults of a SpeechLM checkpoint.

    The runtime takes every number that it depends on from here. The defaults are those of the released 8B model.

    The decoding defaults of requests are ``text_temperature``, ``text_topk``, ``audio_temperature`` and ``audio_topk``;
    the limits ``audio_min_frames`` (None: one per stream), ``audio_max_frames`` and ``text_max_tokens`` (None: no
    limit); and ``audio_cfg``, which applies to the speech route, the page and the frontend, but not to chat requests.
    ``decoding_source`` says where the values come from.

    Raises:
        ValueError: if a field contradicts another one or is out of range; the message names it.
    """

    model_type = "speechlm"
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {
        "text_config": Qwen3Config,
        "audio_config": Qwen3OmniMoeAudioEncoderConfig,
    }

    def __init__(
        self,
        text_config: dict[str, Any] | Qwen3Config | None = None,
        audio_config: dict[str, Any] | Qwen3OmniMoeAudioEncoderConfig | None = None,
        num_stream: int = 8,
        adaptor_input_dim: int = 2048,
        vocab_size: int = 160392,
        codec_base_offset: int = 152192,
        codec_layer_size: int = 1025,
        text_token_offset: int = 256,
        text_token_end: int = 152192,
        pad_token_id: int = 0,
        bos_token_id: int = 1,
        eos_token_id: int = 2,
        eot_token_id: int = 3,
        system_token_id: int = 4,
        user_token_id: int = 5,
        assistant_token_id: int = 6,
        text_modality_token_id: int = 7,
        audio_modality_token_id: int = 8,
        audio_temperature: float = 0.8,
        audio_topk: int = 20,
        text_temperature: float = 0.6,
        text_topk: int = 20,
        text_max_tokens: int | None = None,
        audio_cfg: float | None = None,
        audio_min_frames: int | None = None,
        audio_max_frames: int | None = None,
        decoding_source: str = "config.json",
        audio_frontend: AudioFrontend = "bagpiper",
        text_id_zero_is_pad: bool = True,
        xcodec_hf_model_tag: str = "hf-audio/xcodec-hubert-general",
        xcodec_sample_rate: int = 16000,
        xcodec_hop_length: int = 320,
        **kwargs: Any,
    ) -> None:
        # One model serves all of them, whatever the directory's converter called it.
        kwargs["architectures"] = ["SpeechLMForConditionalGeneration"]
        is_forks = "text_token_id" in kwargs or _is_forks(self.model_type, text_config)
        if is_forks:
            text_modality_token_id = kwargs.pop("text_token_id", text_modality_token_id)
            audio_modality_token_id = kwargs.pop("audio_token_id", audio_modality_token_id)
            kwargs.pop("audio_placeholder_token_id", None)
            audio_cfg = TABLE_10["audio_cfg"] if audio_cfg is None else audio_cfg
            audio_min_frames = audio_min_frames or TABLE_10["audio_min_frames"]
            audio_max_frames = audio_max_frames or TABLE_10["audio_max_frames"]
            text_max_tokens = text_max_tokens or TABLE_10["text_max_tokens"]
            decoding_source = f"config.json, else {TABLE_10_NAME}"
        check_sizes("", {"num_stream": num_stream, "adaptor_input_dim": adaptor_input_dim, "vocab_size": vocab_size})
        self.text_config: Qwen3Config = (
            text_config
            if isinstance(text_config, Qwen3Config)
            else Qwen3Config(**_nested("text_config", text_config, _QWEN3_8B, is_forks=is_forks))
        )
        self.audio_config: Qwen3OmniMoeAudioEncoderConfig = (
            audio_config
            if isinstance(audio_config, Qwen3OmniMoeAudioEncoderConfig)
            else Qwen3OmniMoeAudioEncoderConfig(
                **_nested("audio_config", audio_config, _AUDIO_ENCODER, is_forks=is_forks)
            )
        )
        # The served vocabulary is the whole model's; the original's text_config may have Qwen3's own.
        self.text_config.vocab_size = vocab_size
        self.hidden_size = self.text_config.hidden_size
        self.num_stream = num_stream
        self.adaptor_input_dim = adaptor_input_dim
        self.vocab_size = vocab_size
        self.codec_base_offset = codec_base_offset
        self.codec_layer_size = codec_layer_size
        self.text_token_offset = text_token_offset
        self.text_token_end = text_token_end
        self.eot_token_id = eot_token_id
        self.system_token_id = system_token_id
        self.user_token_id = user_token_id
        self.assistant_token_id = assistant_token_id
        self.text_modality_token_id = text_modality_token_id
        self.audio_modality_token_id = audio_modality_token_id
        self.audio_temperature = audio_temperature
        self.audio_topk = audio_topk
        self.text_temperature = text_temperature
        self.text_topk = text_topk
        self.text_max_tokens = text_max_tokens
        self.audio_cfg = 1.0 if audio_cfg is None else audio_cfg
        self.audio_min_frames = audio_min_frames
        self.audio_max_frames = audio_max_frames
        self.decoding_source = decoding_source
        check_decoding(vars(self))
        self.audio_frontend = audio_frontend
        self.text_id_zero_is_pad = text_id_zero_is_pad
        self.xcodec_hf_model_tag = xcodec_hf_model_tag
        self.xcodec_sample_rate = xcodec_sample_rate
        self.xcodec_hop_length = xcodec_hop_length
        stated_hidden_size = kwargs.pop("hidden_size", self.hidden_size)
        super().__init__(pad_token_id=pad_token_id, bos_token_id=bos_token_id, eos_token_id=eos_token_id, **kwargs)
        if stated_hidden_size != self.hidden_size:
            raise ValueError(f"hidden_size {stated_hidden_size} contradicts text_config.hidden_size {self.hidden_size}")
        if self.audio_config.output_dim != adaptor_input_dim:
            raise ValueError(
                f"adaptor_input_dim {adaptor_input_dim} contradicts audio_config.output_dim "
                f"{self.audio_config.output_dim}"
            )
        if audio_frontend not in get_args(AudioFrontend):
            raise ValueError(f"audio_frontend must be one of {get_args(AudioFrontend)}; got {audio_frontend!r}")
        _ = self.ids  # refuses overlapping ranges

    @property
    def decoding(self) -> dict[str, Any]:
        """The decoding defaults of requests, and where they come from."""
        return {
            "source": self.decoding_source,
            "text": {
                "temperature": self.text_temperature,
                "top_k": self.text_topk,
                "max_tokens": self.text_max_tokens,
            },
            "audio": {
                "temperature": self.audio_temperature,
                "top_k": self.audio_topk,
                "cfg": self.audio_cfg,
                "min_frames": self.audio_min_frames or self.num_stream,
                "max_frames": self.audio_max_frames,
            },
        }

    @property
    def ids(self) -> Ids:
        """The id ranges, validated."""
        return Ids(
            pad=self.pad_token_id,
            bos=self.bos_token_id,
            eos=self.eos_token_id,
            eot=self.eot_token_id,
            system=self.system_token_id,
            user=self.user_token_id,
            assistant=self.assistant_token_id,
            text=self.text_modality_token_id,
            audio=self.audio_modality_token_id,
            text_begin=self.text_token_offset,
            text_end=self.text_token_end,
            codec_begin=self.codec_base_offset,
            codec_layer_size=self.codec_layer_size,
            num_stream=self.num_stream,
            vocab_size=self.vocab_size,
        )


class BagpiperConfig(SpeechLMConfig):
    """The same config, under the second fork's name for the model."""

    model_type = "bagpiper"

    # transformers generates an __init__ for a class without one.
    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)


_FORKS_TEXT = ("bagpiper_text", "speechlm_text")
"""Model types of text_config in the forks' directories."""

MODEL_TYPES = (SpeechLMConfig.model_type, BagpiperConfig.model_type)
"""Model types of a config.json that can be served."""

_LARGEST: dict[str, int] = {
    "num_stream": 64,
    "adaptor_input_dim": 1 << 20,
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 20,
    "intermediate_size": 1 << 24,
    "num_hidden_layers": 1024,
    "num_attention_heads": 4096,
    "num_key_value_heads": 4096,
    "head_dim": 1 << 16,
    "max_position_embeddings": 1 << 28,
    "num_mel_bins": 1 << 16,
    "encoder_layers": 1024,
    "encoder_attention_heads": 4096,
    "encoder_ffn_dim": 1 << 24,
    "d_model": 1 << 20,
    "n_window": 1 << 20,
    "n_window_infer": 1 << 24,
    "output_dim": 1 << 20,
    "downsample_hidden_size": 1 << 16,
    "conv_chunksize": 1 << 24,
    "max_source_positions": 1 << 24,
}
"""Sizes far above any model's: a larger one means a broken file, and must not allocate that much memory."""


def check_sizes(place: str, fields: Mapping[str, Any]) -> None:
    """Check the sizes among the fields of a config.

    Raises:
        ValueError: if a size is not a whole number or is out of range.
    """
    for name, largest in _LARGEST.items():
        value = fields.get(name, 1)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
            raise ValueError(f"{place}{name} is {str(value)[:40]}; allowed: a whole number from 1 to {largest}")


def _is_forks(model_type: str, text_config: Any) -> bool:
    """Whether a fork wrote a config. transformers leaves out fields that have the default of the fork's own class."""
    nested = text_config.get("model_type") if isinstance(text_config, Mapping) else None
    return model_type == BagpiperConfig.model_type or nested in _FORKS_TEXT


def _nested(place: str, fields: Any, usual: dict[str, Any], *, is_forks: bool) -> dict[str, Any]:
    """Return the fields of a nested config, without the model type that its converter gave it.

    Fields that a fork's config omits come from ``usual``, as in the forks' classes; for other configs, transformers'
    defaults apply.
    """
    if fields is None or fields == {}:
        return usual
    if not isinstance(fields, Mapping):
        raise ValueError(f"{place} is {str(fields)[:40]}; allowed: an object")
    check_sizes(f"{place}.", fields)
    left_out = usual if is_forks else {}
    if "rope_parameters" in fields:  # transformers' newer name for the base, which would contradict it
        left_out = {name: value for name, value in left_out.items() if name != "rope_theta"}
    return {name: value for name, value in (left_out | dict(fields)).items() if name != "model_type"}


_QWEN3_8B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "rope_theta": 1_000_000.0,
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 40960,
    "tie_word_embeddings": False,
}

_AUDIO_ENCODER: dict[str, Any] = {
    "num_mel_bins": 128,
    "encoder_layers": 32,
    "encoder_attention_heads": 20,
    "encoder_ffn_dim": 5120,
    "d_model": 1280,
    "n_window": 100,
    "n_window_infer": 400,
    "output_dim": 2048,
    "downsample_hidden_size": 480,
    "conv_chunksize": 500,
    "max_source_positions": 1500,
}
