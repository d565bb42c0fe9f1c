"""Rewrite a Qwen tokenizer file so that its ids are SpeechLM ids, with a name for each reserved id.

SGLang loads its own tokenizer with AutoTokenizer. It must count and decode the same ids as the model, and must not end
a text at any other id than the model's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.convert_slow_tokenizer import bytes_to_unicode

from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.config.files import naming, read_json

_BYTES = frozenset(bytes_to_unicode().values())

_QWENS_SPECIAL = frozenset(
    f"<|{name}|>"
    for name in (
        "endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end", "box_start", "box_end", "quad_start",
        "quad_end", "vision_start", "vision_end", "vision_pad", "image_pad", "video_pad",
    )
)  # fmt: skip
"""The special ones among Qwen3's 26 added tokens, for files that do not mark them."""

_UNNAMED_BY_CONFIG = {9: "<|image|>", 10: "<|video|>", 11: "<|toolcall|>"}


def reserved_names(config: SpeechLMConfig) -> list[str]:
    """Return the names of the ids below ``text_token_offset``, in order of id (ESPnet, SpeechLMJobTemplate)."""
    ids = config.ids
    names = [_UNNAMED_BY_CONFIG.get(index, f"<|unused_{index}|>") for index in range(ids.text_begin)]
    for index, name in _control_names(config).items():
        names[index] = name
    return names


def offset_tokenizer(source: Path, config: SpeechLMConfig) -> dict[str, str]:
    """Return the contents of a served directory's tokenizer files, by name.

    Args:
        source: a directory with the ``tokenizer.json`` of a byte-level BPE, such as Qwen3's, with raw ids or with
            SpeechLM ids. Tokens that a fork's converter put only into the vocabulary become added tokens, and names
            of codec ids are left out.
        config: gives the offset and the end of the text range.

    Raises:
        CheckpointError: if ``source`` has no ``tokenizer.json``, or if it is broken, of another kind, or does not fit
            the text range.
    """
    file = source / "tokenizer.json"
    raw = read_json(file)
    declared_file = source / "tokenizer_config.json"
    declared = read_json(declared_file).get("added_tokens_decoder") if declared_file.exists() else None
    with naming(file):
        content = _offset(raw, declared if isinstance(declared, dict) else {}, config)
    settings = {
        # The generic class uses tokenizer.json unchanged; Qwen2Tokenizer would rebuild it from the vocabulary.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<|pad|>",
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "model_max_length": config.text_config.max_position_embeddings,
        "clean_up_tokenization_spaces": False,
    }
    return {
        "tokenizer.json": json.dumps(content, ensure_ascii=False),
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


def _offset(raw: dict[str, Any], declared: Mapping[str, Any], config: SpeechLMConfig) -> dict[str, Any]:
    ids = config.ids
    model = raw["model"]
    if model.get("type") != "BPE" or (raw.get("decoder") or {}).get("type") != "ByteLevel":
        raise ValueError("must contain a byte-level BPE (model.type BPE, decoder.type ByteLevel)")
    if (raw.get("post_processor") or {"type": "ByteLevel"})["type"] != "ByteLevel":
        raise ValueError(
            f"has post_processor {raw['post_processor']['type']!r}, which could add ids of its own; "
            "allowed: none or ByteLevel"
        )
    # A file with SpeechLM ids loses its tokens at the reserved and the codec ids.
    is_offset = min(model["vocab"][byte] for byte in _BYTES & model["vocab"].keys()) >= ids.text_begin
    first, end = (ids.text_begin, ids.text_end) if is_offset else (0, None)
    vocabulary = {name: index - first for name, index in model["vocab"].items() if _within(index, first, end)}
    added = {token["id"] - first: token for token in _added_tokens(raw, declared) if _within(token["id"], first, end)}
    # Added tokens are in the vocabulary too: the tokenizers library takes the id of an added token from there, and
    # assigns a new one if it is missing.
    vocabulary |= {token["content"]: index for index, token in added.items()}
    highest = max(vocabulary.values()) + ids.text_begin
    if highest >= ids.text_end:
        raise ValueError(
            f"its highest id {highest - ids.text_begin} plus text_token_offset {ids.text_begin} "
            f"is not below text_token_end {ids.text_end}"
        )
    reserved = reserved_names(config)
    taken = sorted(set(reserved) & vocabulary.keys())
    if taken:
        raise ValueError(f"already has tokens with reserved names: {', '.join(taken[:8])}")
    shifted = {name: index for index, name in enumerate(reserved)}
    shifted |= {name: index + ids.text_begin for name, index in vocabulary.items()}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokens = [{"id": index, "content": name, **plain, "special": True} for index, name in enumerate(reserved)]
    tokens += [{**token, "id": index + ids.text_begin} for index, token in sorted(added.items())]
    return {**raw, "truncation": None, "padding": None, "added_tokens": tokens, "model": {**model, "vocab": shifted}}


def _within(index: int, first: int, end: int | None) -> bool:
    return index >= first and (end is None or index < end)


def _added_tokens(raw: dict[str, Any], declared: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the added tokens, which are matched in a text as a whole, with their ids in the file.

    The file itself lists them. A fork's file lists none: there, a vocabulary entry that neither a byte nor a merge can
    produce must be an added token. Its properties are those in ``declared``, or else Qwen3's.
    """
    if raw["added_tokens"]:
        return list(raw["added_tokens"])
    model = raw["model"]
    merged = {"".join(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in model["merges"]}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    whole = {
        index: {"id": index, "content": name, **plain, "special": name in _QWENS_SPECIAL}
        for name, index in model["vocab"].items()
        if name not in merged and name not in _BYTES
    }
    return list((whole | {int(index): {"id": int(index), **token} for index, token in declared.items()}).values())
