"""One checkpoint in every published form, written by test code from the tensors of a built checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.state_dict_saver import save

from sglang_speechlm.checkpoint import CODEC_PREFIX, CheckpointSpec
from sglang_speechlm.checkpoint.random.vocabulary import write_raw_tokenizer
from sglang_speechlm.config import SpeechLMConfig

SPEC = CheckpointSpec(seed=0)
TRAIN_CONFIG: dict[str, Any] = {
    "job_type": "speechlm",
    "multimodal_io": {
        "text": {"tokenizer_name": "Qwen/Qwen3-8B-Base"},
        "discrete_audio": {
            "codec_choice": "Xcodec",
            "codec_hf_model_tag": "hf-audio/xcodec-hubert-general",
            "ssl_choice": None,
            "delay_interleave": True,
            "stream_weights": [0.125] * 8,
        },
        "continuous_audio": {
            "encoder_choice": "huggingface",
            "encoder_hf_model_tag": "Qwen/Qwen3-Omni-30B-A3B-Instruct",
        },
    },
    "model": {"model_choice": "parallel", "model_hf_tag": "Qwen/Qwen3-8B-Base"},
}
INFERENCE = {
    "dtype": "bfloat16",
    "num_hypo": 1,
    "enforce_modality": ["text", "audio"],
    "audio": {"temperature": 0.9, "topk": 30, "cfg": 3, "max_step": 1024, "min_step": 40},
    "text": {"temperature": 0.7, "topk": 25, "cfg": 1, "max_step": 4096, "min_step": 1},
}


class Obstacle:
    """An object that a trainer pickles with its tensors; unpickling it leaves a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


def released_tensors(served: Path) -> dict[str, Tensor]:
    """Return the tensors of a built checkpoint together with the loss weights that releases contain."""
    tensors = load_file(served / "model.safetensors")
    return {**tensors, "vocab_weight": torch.ones(len(tensors["model.embed_tokens.weight"]))}


def write_tokenizer(folder: Path) -> Path:
    """Write a directory like Qwen3's on the hub."""
    folder.mkdir(parents=True)
    write_raw_tokenizer(folder, SPEC.text_vocab_size)
    qwen = {"model_type": "qwen3", "vocab_size": SPEC.text_vocab_size, "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(qwen))
    return folder


def write_train_config(folder: Path, name: str = "train.yaml", **discrete_audio: Any) -> Path:
    """Write a training YAML with changes to its codec section."""
    content = json.loads(json.dumps(TRAIN_CONFIG))
    content["multimodal_io"]["discrete_audio"] |= discrete_audio
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / name


def write_release(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write a release as it is published: a YAML file, a .pt file, decoding defaults and a README."""
    write_train_config(folder, "train_bagpiper_tts.yaml")
    torch.save({"module": dict(tensors)}, folder / "model.pt")
    (folder / "inference.yaml").write_text(yaml.safe_dump(INFERENCE))
    (folder / "README.md").write_text("A release.")
    (folder / "MANIFEST.json").write_text("{}")
    return folder


def write_plain(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write a plain state dict."""
    write_train_config(folder)
    torch.save(dict(tensors), folder / "weights.pt")
    return folder / "weights.pt"


def write_deepspeed(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write DeepSpeed's model states in a step's folder, and the YAML file in the folder above."""
    write_train_config(folder)
    step = folder / "checkpoints" / "step_20"
    step.mkdir(parents=True)
    others = {
        "optimizer": Obstacle(folder / "pwned"),
        "param_shapes": [{"a": torch.Size([2])}],
        "ds_version": "0.17",
        "lr_scheduler": [Obstacle(folder / "pwned"), {Obstacle(folder / "pwned")}],
    }
    torch.save({"module": dict(tensors), **others}, step / "mp_rank_00_model_states.pt")
    return step


def write_distributed(folder: Path, tensors: Mapping[str, Tensor]) -> Path:
    """Write a trainer's output: two complete steps and an unfinished one."""
    write_train_config(folder)
    for step, scale in ((2, 0.0), (10, 1.0)):
        state: dict[str, Any] = {
            f"model.{name}": tensor * scale if scale != 1 else tensor for name, tensor in tensors.items()
        }
        state |= {f"optimizer.state.{name}.exp_avg": torch.zeros_like(tensor) for name, tensor in tensors.items()}
        state |= {"lr_scheduler": {"step": step}, "train_state": torch.tensor(step)}
        save(state, checkpoint_id=folder / "checkpoints" / f"step_{step}", no_dist=True)
    unfinished = folder / "checkpoints" / "step_12"
    unfinished.mkdir()
    (unfinished / "__0_0.distcp").write_bytes(b"half")
    return folder


def write_fork(
    folder: Path,
    served: Path,
    name: str = "bagpiper",
    *,
    with_codec: bool = True,
    hidden: bool = False,
    codec: str = "",
) -> Path:
    """Write a directory like the converter of a vLLM fork.

    Args:
        name: the model type: "bagpiper", or "speechlm" for the first fork.
        with_codec: whether the codec's tensors are included.
        hidden: whether Qwen's added tokens appear only in the vocabulary.
        codec: the hub tag or directory of the codec.
    """
    folder.mkdir(parents=True)
    config = SpeechLMConfig.from_pretrained(served)
    tensors = load_file(served / "model.safetensors")
    if not with_codec:
        tensors = {key: tensor for key, tensor in tensors.items() if not key.startswith(CODEC_PREFIX)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _write_fork_config(folder, config, name, codec)
    _write_fork_tokenizer(folder, json.loads((served / "tokenizer.json").read_text()), config, name, hidden=hidden)
    if name == "speechlm":
        special_tokens = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
        (folder / "special_tokens_map.json").write_text(json.dumps(special_tokens))
    return folder


def _write_fork_config(folder: Path, config: SpeechLMConfig, name: str, codec: str) -> None:
    text, audio = config.text_config.to_dict(), config.audio_config.to_dict()
    text = {key: text[key] for key in (
        "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "attention_bias",
    )}  # fmt: skip
    audio = {key: audio[key] for key in (
        "num_mel_bins", "encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "d_model", "n_window",
        "n_window_infer", "output_dim", "downsample_hidden_size", "conv_chunksize", "max_source_positions",
    )}  # fmt: skip
    kept = (
        "num_stream", "adaptor_input_dim", "vocab_size", "hidden_size", "codec_base_offset", "codec_layer_size",
        "text_token_offset", "text_token_end", "pad_token_id", "bos_token_id", "eos_token_id", "eot_token_id",
        "system_token_id", "user_token_id", "assistant_token_id", "audio_temperature", "audio_topk",
        "text_temperature", "text_topk", "xcodec_sample_rate",
    )  # fmt: skip
    architecture = "Bagpiper" if name == "bagpiper" else "SpeechLM"
    fields = {
        "architectures": [f"{architecture}ForConditionalGeneration"],
        "model_type": name,
        "text_config": {"model_type": f"{name}_text", "vocab_size": config.vocab_size, "rope_theta": 1e6, **text},
        "audio_config": {"model_type": f"{name}_audio_encoder", **audio},
        **{key: getattr(config, key) for key in kept},
        "text_token_id": 7,
        "audio_token_id": 8,
        "audio_placeholder_token_id": 8,
        "initializer_range": 0.02,
        "xcodec_hf_model_tag": codec or "hf-audio/xcodec-hubert-general",
    }
    (folder / "config.json").write_text(json.dumps(fields))
    # Like a chat model's file, although ids such as 300 are ordinary text here.
    generation = {"bos_token_id": 1, "eos_token_id": [2, *range(256, 400)], "pad_token_id": 0}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    (folder / "chat_template.jinja").write_text("{{ messages }}")


def _write_fork_tokenizer(
    folder: Path, served: dict[str, Any], config: SpeechLMConfig, name: str, *, hidden: bool
) -> None:
    begin, size = config.codec_base_offset, config.codec_layer_size
    codec = {
        f"<codec_layer{stream}_{'pad' if index == 0 else f'code{index - 1}'}>": begin + stream * size + index
        for stream in range(config.num_stream)
        for index in range(size)
    }
    vocabulary = {**served["model"]["vocab"], **codec}
    content = {**served, "added_tokens": [], "model": {**served["model"], "vocab": vocabulary}}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    declared = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"}
        for token in served["added_tokens"]
        if token["id"] < 256 or not hidden
    }
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_type": name, "added_tokens_decoder": declared}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("")


FORMS: dict[str, Callable[[Path, Mapping[str, Tensor]], Path]] = {
    "release": write_release,
    "plain": write_plain,
    "deepspeed": write_deepspeed,
    "distributed": write_distributed,
}
"""Forms that need conversion: each function writes the tensors to a new folder and returns the path to convert."""
