"""Random texts that a grammar allows."""

from __future__ import annotations

import random

import xgrammar

END = 256
"""The id that ends a text; the ids below it are bytes."""
_MOST_IDS = 600


def compiler_of(vocabulary: list[bytes]) -> xgrammar.GrammarCompiler:
    """Return a grammar compiler for a vocabulary: the bytes of each id."""
    info = xgrammar.TokenizerInfo(vocabulary, vocab_size=len(vocabulary), stop_token_ids=[END])
    return xgrammar.GrammarCompiler(info, cache_enabled=False)


def random_text(grammar: xgrammar.CompiledGrammar, vocabulary: list[bytes], number: int) -> str | None:
    """Return a text drawn from the allowed ids, with a preference for closing ones; None if it does not end soon."""
    matcher, draws = xgrammar.GrammarMatcher(grammar), random.Random(number)
    allowed = xgrammar.allocate_token_bitmask(1, len(vocabulary))
    text = b""
    for step in range(_MOST_IDS):
        matcher.fill_next_token_bitmask(allowed)
        mask = allowed[0].tolist()
        ids = [index for index in range(len(vocabulary)) if mask[index // 32] >> (index % 32) & 1]
        closing = [index for index in ids if index in (*b'"]}', END)]
        # Random non-ASCII bytes may be invalid UTF-8, which a text shows as U+FFFD.
        index = draws.choice(
            closing if closing and draws.random() < 0.2 + step / 200 else [i for i in ids if i < 128] or ids
        )
        assert matcher.accept_token(index)
        if matcher.is_terminated():
            return text.decode()
        text += vocabulary[index]
    return None
