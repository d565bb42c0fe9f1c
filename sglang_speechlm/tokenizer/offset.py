"""A Qwen tokenizer file rewritten so that its ids are SpeechLM ids, with a name for each of the reserved ones.

SGLang, which loads a tokenizer of its own with AutoTokenizer, must count and decode the same ids as the model, and
end at none but the model's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from sglang_speechlm.config import SpeechLMConfig

_BYTES = frozenset(bytes_to_unicode().values())

_UNNAMED_BY_CONFIG = {9: "<|image|>", 10: "<|video|>", 11: "<|toolcall|>"}


def reserved_names(config: SpeechLMConfig) -> list[str]:
    """The names of the ids below ``text_token_offset``, in order of id (ESPnet, SpeechLMJobTemplate)."""
    ids = config.ids
    names = [_UNNAMED_BY_CONFIG.get(index, f"<|unused_{index}|>") for index in range(ids.text_begin)]
    for index, name in _control_names(config).items():
        names[index] = name
    return names


def offset_tokenizer(source: Path, config: SpeechLMConfig) -> dict[str, str]:
    """The tokenizer files of a served directory: name to content.

    Args:
        source: a directory with the ``tokenizer.json`` of a byte-level BPE, such as Qwen3's, with raw ids or with
            ids that are SpeechLM's already.
        config: gives the offset and the end of the text range.

    Raises:
        FileNotFoundError: if ``source`` has no ``tokenizer.json``.
        ValueError: if the file is of another kind, or does not fit the text range.
    """
    raw = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    settings = {
        # The generic class takes tokenizer.json as it is; Qwen2Tokenizer would build its own from the vocabulary.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<|pad|>",
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "model_max_length": config.text_config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": json.dumps(_offset(raw, config), ensure_ascii=False),
        "tokenizer_config.json": json.dumps(settings, indent=2) + "\n",
    }


def _control_names(config: SpeechLMConfig) -> dict[int, str]:
    ids = config.ids
    return {
        ids.pad: "<|pad|>",
        ids.bos: "<|bos|>",
        ids.eos: "<|eos|>",
        ids.eot: "<|eot|>",
        ids.system: "<|system|>",
        ids.user: "<|user|>",
        ids.assistant: "<|assistant|>",
        ids.text: "<|text|>",
        ids.audio: "<|audio|>",
    }


def _offset(raw: dict[str, Any], config: SpeechLMConfig) -> dict[str, Any]:
    ids = config.ids
    model = raw["model"]
    if model.get("type") != "BPE" or (raw.get("decoder") or {}).get("type") != "ByteLevel":
        raise ValueError("tokenizer.json must hold a byte-level BPE (model.type BPE, decoder.type ByteLevel)")
    if (raw.get("post_processor") or {"type": "ByteLevel"})["type"] != "ByteLevel":
        raise ValueError(
            f"tokenizer.json has post_processor {raw['post_processor']['type']!r}, which could add ids of its own; "
            "allowed: none or ByteLevel"
        )
    # Ids that are offset already lose what they have at the reserved places.
    first = (
        0 if min(model["vocab"][byte] for byte in _BYTES & model["vocab"].keys()) < ids.text_begin else ids.text_begin
    )
    raw_added = [{**token, "id": token["id"] - first} for token in raw["added_tokens"] if token["id"] >= first]
    # Added tokens stand in the vocabulary too: the tokenizers library takes the id of an added token from there,
    # and numbers it anew if it is missing.
    raw_vocabulary = {name: index - first for name, index in model["vocab"].items() if index >= first}
    raw_vocabulary |= {token["content"]: token["id"] for token in raw_added}
    highest = max(raw_vocabulary.values()) + ids.text_begin
    if highest >= ids.text_end:
        raise ValueError(
            f"the tokenizer's highest id {highest - ids.text_begin} plus text_token_offset {ids.text_begin} "
            f"is not below text_token_end {ids.text_end}"
        )
    reserved = reserved_names(config)
    taken = sorted(set(reserved) & raw_vocabulary.keys())
    if taken:
        raise ValueError(f"the tokenizer already has tokens with reserved names: {', '.join(taken[:8])}")
    vocabulary = {name: index for index, name in enumerate(reserved)}
    vocabulary |= {name: index + ids.text_begin for name, index in raw_vocabulary.items()}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [{"id": index, "content": name, **plain, "special": True} for index, name in enumerate(reserved)]
    added += [{**token, "id": token["id"] + ids.text_begin} for token in raw_added]
    return {**raw, "truncation": None, "padding": None, "added_tokens": added, "model": {**model, "vocab": vocabulary}}
