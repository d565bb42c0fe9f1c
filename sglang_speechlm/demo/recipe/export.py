"""Export the trained model as a served directory."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import XcodecModel

from sglang_speechlm.checkpoint.shards import write_shard
from sglang_speechlm.checkpoint.tensors import AUDIO_TOWER_PREFIX, CODEC_PREFIX, check_tensors
from sglang_speechlm.demo.recipe.language_model import Trainee
from sglang_speechlm.demo.recipe.requests import preset
from sglang_speechlm.prompt.presets import FILE as PRESET

FILE = "model.safetensors"


def export(model: Trainee, codec: XcodecModel, directory: Path) -> Path:
    """Write tensors, configs and preset into the tokenizer's directory: the model as bfloat16, the codec as float16.

    This takes half the bytes; both are loaded as float32.

    Raises:
        ValueError: if the model does not have the tensors of its config.
    """
    tensors = {f"model.{name}": tensor for name, tensor in model.model.state_dict().items()}
    tensors["stream_emb.weight"] = model.stream_emb.weight
    tensors |= {f"adaptor.continuous_audio.{name}": tensor for name, tensor in model.adaptor.state_dict().items()}
    tensors |= {AUDIO_TOWER_PREFIX + name: tensor for name, tensor in model.audio_tower.state_dict().items()}
    check_tensors({name: tensor.shape for name, tensor in tensors.items()}, model.config)
    stored = {name: tensor.detach().to(torch.bfloat16) for name, tensor in tensors.items()}
    stored |= {CODEC_PREFIX + name: tensor.detach().to(torch.float16) for name, tensor in codec.state_dict().items()}
    codec.config.save_pretrained(directory / "xcodec")
    write_shard(directory / FILE, stored)
    model.config.save_pretrained(directory)
    (directory / PRESET).write_text(json.dumps(preset(), indent=2) + "\n", encoding="utf-8")
    return directory
