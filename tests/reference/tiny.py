"""A random model small enough to recompute everything at every step, independent of the product's own builder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3Model
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeAudioEncoder

from sglang_speechlm.config import SpeechLMConfig

from .decoder import AUDIO_TOWER, Reference

HIDDEN = 64
TEXT_BEGIN = 256
NUM_STREAM = 8


def tiny_config(**changes: Any) -> SpeechLMConfig:
    """Two layers, 256 text ids (one for each byte), 8 streams of 16 codes."""
    settings: dict[str, Any] = {
        "text_config": {
            "hidden_size": HIDDEN,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 1024,
            "tie_word_embeddings": False,
        },
        "audio_config": {
            "num_mel_bins": 128,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 64,
            "d_model": 32,
            "n_window": 50,
            "n_window_infer": 200,
            "output_dim": 48,
            "downsample_hidden_size": 8,
            "conv_chunksize": 500,
            "max_source_positions": 1500,
        },
        "adaptor_input_dim": 48,
        "num_stream": NUM_STREAM,
        "codec_layer_size": 17,
        "text_token_end": TEXT_BEGIN + 256,
        "codec_base_offset": TEXT_BEGIN + 256,
        "vocab_size": TEXT_BEGIN + 256 + NUM_STREAM * 17,
    }
    return SpeechLMConfig(**(settings | changes))


def tiny_tensors(config: SpeechLMConfig, seed: int = 0) -> dict[str, Tensor]:
    """Random tensors under a checkpoint's names, with variance high enough for greedy choices to be clear.

    The head's rows for eot and eos are enlarged so that answers end.
    """
    torch.manual_seed(seed)
    tensors = {f"model.{name}": tensor for name, tensor in _random_state(Qwen3Model(config.text_config)).items()}
    tower = Qwen3OmniMoeAudioEncoder(config.audio_config)
    tensors |= {AUDIO_TOWER + name: tensor for name, tensor in _random_state(tower).items()}
    tensors["lm_head.weight"] = torch.randn(config.vocab_size, HIDDEN)
    tensors["lm_head.weight"][[config.eos_token_id, config.eot_token_id]] *= 2.5
    tensors["stream_emb.weight"] = torch.randn(config.num_stream, HIDDEN)
    tensors["adaptor.continuous_audio.weight"] = torch.randn(HIDDEN, config.adaptor_input_dim) * 0.1
    tensors["adaptor.continuous_audio.bias"] = torch.randn(HIDDEN)
    return tensors


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """One id for each byte, from TEXT_BEGIN on; <|eot|> and <|assistant|> are special, as in a served directory."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {f"<|{index}|>": index for index in range(TEXT_BEGIN) if index not in (3, 6)}
    vocabulary |= {"<|eot|>": 3, "<|assistant|>": 6}
    vocabulary |= {symbol: TEXT_BEGIN + index for index, symbol in enumerate(alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True) for name in ("<|eot|>", "<|assistant|>")])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def tiny_reference(seed: int = 0, **changes: Any) -> Reference:
    """A reference for the tiny model; ``changes`` override its config."""
    config = tiny_config(**changes)
    return Reference(config, tiny_tensors(config, seed), tiny_tokenizer(), Path())


def _random_state(module: nn.Module) -> dict[str, Tensor]:
    state = {}
    for name, tensor in module.state_dict().items():
        if name.endswith("bias"):
            state[name] = torch.randn_like(tensor) * 0.3
        elif tensor.dim() == 1:
            state[name] = 1 + torch.randn_like(tensor) * 0.3
        else:
            state[name] = torch.randn_like(tensor) / tensor[0].numel() ** 0.5
    return state
