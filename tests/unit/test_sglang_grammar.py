"""A text within a grammar is well-formed UTF-8, so its lengths are those that a client counts."""

import json
import random

import numpy as np
import pytest
import torch
import xgrammar
from hypothesis import given, settings
from hypothesis import strategies as st

from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.sglang_hooks.grammar import TextGrammar, compiled_schema, vocabulary
from sglang_speechlm.tokenizer import TextTokenizer
from sglang_speechlm.tokenizer.utf8 import NextWords, is_part_of_text

BYTES = [bytes([value]) for value in range(32, 256) if value != 127]
PARTS = [text.encode()[begin:end] for text in "éह핈🙂" for begin in range(4) for end in range(2, 5)]
WORDS = [word if is_part_of_text(word) else b"" for word in [*BYTES, *filter(None, PARTS), b"\xed\xa0", b"\xa0\xed"]]
END = len(WORDS)
SCHEMA = {"type": "array", "items": {"type": "string", "maxLength": 3}, "minItems": 4, "maxItems": 4}


@pytest.fixture(scope="module")
def compiled() -> xgrammar.CompiledGrammar:
    info = xgrammar.TokenizerInfo([*WORDS, b""], vocab_size=END + 1, stop_token_ids=[END])
    return compiled_schema(xgrammar.GrammarCompiler(info, cache_enabled=False), json.dumps(SCHEMA))


def bits(mask: torch.Tensor) -> list[int]:
    """Return the ids that a mask allows."""
    allowed: list[int] = np.unpackbits(mask.numpy().view(np.uint8), bitorder="little")[: END + 1].nonzero()[0].tolist()
    return allowed


@settings(max_examples=40)
@given(st.integers(0, 2**32))
def test_every_text_that_the_masks_allow_is_well_formed_and_keeps_its_lengths(
    compiled: xgrammar.CompiledGrammar, seed: int
) -> None:
    draw = random.Random(seed)
    grammar = TextGrammar.of(compiled, END + 1, NextWords([*WORDS, b""], END + 1))
    text = b""
    while not grammar.is_terminated():
        mask = xgrammar.allocate_token_bitmask(1, END + 1)
        grammar.fill_vocab_mask(mask, 0)
        allowed = bits(mask[0])
        rare = [index for index in allowed if index != END and WORDS[index][0] > 127]
        index = draw.choice(rare if rare and draw.random() < 0.7 else allowed)
        grammar.accept_token(index)
        text += b"" if index == END else WORDS[index]
    assert all(len(item) <= 3 for item in json.loads(text.decode()))


def test_a_copied_grammar_narrows_its_masks_too(compiled: xgrammar.CompiledGrammar) -> None:
    grammar = TextGrammar.of(compiled, END + 1, NextWords([*WORDS, b""], END + 1)).copy()
    for word in (b"[", b'"', b"\xed"):
        grammar.accept_token(WORDS.index(word))
    mask = xgrammar.allocate_token_bitmask(1, END + 1)
    grammar.fill_vocab_mask(mask, 0)
    assert {WORDS[index][0] for index in bits(mask[0])} == set(range(0x80, 0xA0))


@pytest.mark.parametrize(
    "word", [b"", b"a", "é".encode(), b"\xe0", b"\x80\x80\x80", b"\x88a", b"\xf0\x9f\x99", b"\xbf\xf4"]
)
def test_a_part_of_a_text_is_recognised(word: bytes) -> None:
    assert is_part_of_text(word)


@pytest.mark.parametrize(
    "word",
    [b"\xc0", b"\xc1\xbf", b"\xf5", b"\xff", b"\xed\xa0", b"\xe0\x80", b"\xf4\x90", b"\x80" * 4, b"\xc3a", b"\xc3\xc3"],
)
def test_bytes_that_no_text_contains_are_recognised(word: bytes) -> None:
    assert not is_part_of_text(word)


def test_a_grammars_vocabulary_has_no_bytes_that_no_text_contains(
    tokenizer: TextTokenizer, config: SpeechLMConfig
) -> None:
    words = set(vocabulary(tokenizer, config))
    assert b"\xc3" in words
    assert not {bytes([value]) for value in (0xC0, 0xC1, *range(0xF5, 0x100))} & words


def test_a_mask_is_not_narrowed_to_nothing() -> None:
    mask = torch.tensor([1 << 1], dtype=torch.int32)
    NextWords([b"\xed", b"\xa0"], 2).narrow(mask, 0)
    assert mask.tolist() == [1 << 1]
