"""The demonstration model's config and its tokenizer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.demo.recipe.codec import CODEBOOK_SIZE, STREAMS
from sglang_speechlm.tokenizer import TextTokenizer, offset_tokenizer

TEXT_IDS = 1024
_TEXT_BEGIN = 256
_ADDED = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


def new_config() -> SpeechLMConfig:
    """Return the config: 4 M parameters, a fifth of them embeddings, which the head shares."""
    text_end = _TEXT_BEGIN + TEXT_IDS
    codec_layer_size = CODEBOOK_SIZE + 1
    return SpeechLMConfig(
        text_config={
            "hidden_size": 256,
            "intermediate_size": 640,
            "num_hidden_layers": 5,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "rope_theta": 10_000.0,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 16_384,
            "tie_word_embeddings": True,
            "dtype": "float32",
        },
        audio_config={
            "num_mel_bins": 128,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 256,
            "d_model": 128,
            "n_window": 50,
            "n_window_infer": 800,
            "output_dim": 128,
            "downsample_hidden_size": 24,
            "conv_chunksize": 500,
            "max_source_positions": 1500,
            "dtype": "float32",
        },
        num_stream=STREAMS,
        adaptor_input_dim=128,
        vocab_size=text_end + STREAMS * codec_layer_size,
        codec_base_offset=text_end,
        codec_layer_size=codec_layer_size,
        text_token_offset=_TEXT_BEGIN,
        text_token_end=text_end,
        xcodec_hf_model_tag="xcodec",
        audio_temperature=0.5,  # such a small model rules out errors less clearly than the released one
        tie_word_embeddings=True,
        dtype="float32",
    )


def write_tokenizer(directory: Path, config: SpeechLMConfig, texts: Iterable[str]) -> TextTokenizer:
    """Train a byte-level BPE on ``texts`` and write it as the served directory's tokenizer; digits stay separate."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(vocab_size=TEXT_IDS - len(_ADDED), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in _ADDED])
    with tempfile.TemporaryDirectory() as raw:
        tokenizer.save(f"{raw}/tokenizer.json")
        files = offset_tokenizer(Path(raw), config)
    for name, text in files.items():
        (directory / name).write_text(text, encoding="utf-8")
    return TextTokenizer.from_pretrained(directory, config)
