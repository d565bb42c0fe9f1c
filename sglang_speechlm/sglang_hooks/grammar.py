"""Structured text: which ids may come next, by SGLang's xgrammar backend over the texts of a SpeechLM checkpoint."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from sglang.srt.arg_groups.overrides import model_config_of
from sglang.srt.constrained.base_grammar_backend import BaseGrammarBackend, BaseGrammarObject, InvalidGrammarObject
from sglang.srt.constrained.xgrammar_backend import MAX_ROLLBACK_TOKENS, XGrammarGrammar, XGrammarGrammarBackend
from typing_extensions import override
from xgrammar import (
    CompiledGrammar,
    Grammar,
    GrammarCompiler,
    GrammarMatcher,
    TokenizerInfo,
    allocate_token_bitmask,
    apply_token_bitmask_inplace,
)

from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.prompt.tools import END, SEPARATOR, START, head
from sglang_speechlm.tokenizer import TextTokenizer
from sglang_speechlm.tokenizer.utf8 import NextWords, is_part_of_text

_MOST_KEPT = 64
"""Maximum number of compiled grammars; SGLang keeps every one that a client has ever sent."""

_THREADS = 2
"""Threads of a compilation, and concurrent compilations; the scheduler continues meanwhile."""


class TextGrammar(XGrammarGrammar):
    """SGLang's xgrammar matcher, extended to CPUs, to copies of a subclass, and to well-formed UTF-8."""

    next_words: NextWords

    @classmethod
    def of(cls, compiled: CompiledGrammar, vocab_size: int, next_words: NextWords) -> TextGrammar:
        """Return the state of a text that has not begun."""
        matcher = GrammarMatcher(compiled, max_rollback_tokens=MAX_ROLLBACK_TOKENS)
        grammar = cls(matcher, vocab_size, compiled, None)
        grammar.next_words = next_words
        return grammar

    @override
    def copy(self) -> TextGrammar:
        return self.of(self.ctx, self.vocab_size, self.next_words)

    @override
    def fill_vocab_mask(self, vocab_mask: torch.Tensor, idx: int) -> None:
        super().fill_vocab_mask(vocab_mask, idx)
        if self.accepted_tokens:
            self.next_words.narrow(vocab_mask[idx], self.accepted_tokens[-1])

    @override
    def allocate_vocab_mask(self, vocab_size: int, batch_size: int, device: Any) -> torch.Tensor:
        if torch.cuda.is_available():
            return super().allocate_vocab_mask(vocab_size, batch_size, device)
        return allocate_token_bitmask(batch_size, vocab_size)

    @override
    def apply_vocab_mask(self, logits: torch.Tensor, vocab_mask: torch.Tensor) -> None:
        if logits.device.type == "cpu":
            apply_token_bitmask_inplace(logits, vocab_mask)
        else:
            super().apply_vocab_mask(logits, vocab_mask)


class TextGrammarBackend(XGrammarGrammarBackend):
    """SGLang's xgrammar backend whose ids are the text's, and whose ends are eot and eos.

    Nothing is read or built before the first request that needs it.
    """

    def __init__(self, config: SpeechLMConfig, tokenizer_path: str, vocab_size: int) -> None:
        """Take the checkpoint's config, the directory of its tokenizer, and the width of the logits."""
        BaseGrammarBackend.__init__(self)  # SGLang's subclass would treat control ids as text
        self.executor = ThreadPoolExecutor(_THREADS)
        self._config = config
        self._tokenizer_path = Path(tokenizer_path)
        self.vocab_size = vocab_size
        self._building = threading.Lock()

    @override
    def dispatch_json(self, key_string: str) -> BaseGrammarObject:
        with self._building:
            compiler = self._json_compiler
        return self._grammar(compiled_schema, compiler, key_string)

    @override
    def dispatch_structural_tag(self, key_string: str) -> BaseGrammarObject:
        with self._building:
            compiler = self._text_compiler
        return self._grammar(compiled_calls, compiler, key_string)

    def _grammar(
        self, compile: Callable[[GrammarCompiler, str], CompiledGrammar], compiler: GrammarCompiler, key: str
    ) -> BaseGrammarObject:
        with self._building:
            next_words = self._next_words
        try:
            return TextGrammar.of(compile(compiler, key), self.vocab_size, next_words)
        except (RuntimeError, ValueError) as error:
            return InvalidGrammarObject(str(error))

    @override
    def set_cache(self, key: tuple[str, str], value: BaseGrammarObject) -> None:
        while len(self.cache) >= _MOST_KEPT:
            del self.cache[next(iter(self.cache))]
        super().set_cache(key, value)

    @override
    def reset(self) -> None:
        BaseGrammarBackend.reset(self)

    @cached_property
    def _json_compiler(self) -> GrammarCompiler:
        return self._compiler(json_vocabulary(self._words))

    @cached_property
    def _text_compiler(self) -> GrammarCompiler:
        return self._compiler(self._words)

    @cached_property
    def _next_words(self) -> NextWords:
        return NextWords(self._words, self.vocab_size)

    @cached_property
    def _words(self) -> list[bytes]:
        return vocabulary(TextTokenizer.from_pretrained(self._tokenizer_path, self._config), self._config)

    def _compiler(self, words: list[bytes]) -> GrammarCompiler:
        ids = self._config.ids
        info = TokenizerInfo(words, vocab_size=self.vocab_size, stop_token_ids=[ids.eot, ids.eos])
        return GrammarCompiler(info, max_threads=_THREADS, cache_enabled=False)


def compiled_schema(compiler: GrammarCompiler, schema: str) -> CompiledGrammar:
    """Return the grammar of the JSON that a schema allows, spaced as in Python and without properties it does not name.

    Raises:
        RuntimeError: if xgrammar cannot read the schema.
    """
    # With free white space, a model that is unsure writes it until the budget is used up.
    return compiler.compile_json_schema(schema, any_whitespace=False)


def compiled_calls(compiler: GrammarCompiler, rules: str) -> CompiledGrammar:
    """Return the grammar of a text that may call functions, as ``prompt.tools.call_grammar`` describes them.

    Raises:
        RuntimeError: if xgrammar cannot read a function's schema.
    """
    described = json.loads(rules)
    tags = [
        {
            "type": "tag",
            "begin": head(function["name"]),
            "content": {"type": "grammar", "grammar": _arguments(function["parameters"])},
            "end": END,
        }
        for function in described["functions"]
    ]
    calls: dict[str, Any] = {
        "type": "tags_with_separator",
        "tags": tags,
        "separator": SEPARATOR + START,
        "at_least_one": True,
        "stop_after_first": not described["is_parallel"],
    }
    if described["is_required"]:
        form: dict[str, Any] = {"type": "sequence", "elements": [{"type": "const_string", "value": START}, calls]}
    else:
        form = {"type": "dispatch", "rules": [[START, calls]], "loop": False}
    return compiler.compile_structural_tag({"type": "structural_tag", "format": form})


def _arguments(schema: dict[str, Any]) -> str:
    return str(Grammar.from_json_schema(json.dumps(schema), any_whitespace=False))


def vocabulary(tokenizer: TextTokenizer, config: SpeechLMConfig) -> list[bytes]:
    """Return the bytes of each id; empty for ids that are not text, which are never part of a structure."""
    words = [tokenizer.token_bytes(index) for index in range(config.vocab_size)]
    return [word if is_part_of_text(word) else b"" for word in words]


def json_vocabulary(words: list[bytes]) -> list[bytes]:
    """Return a vocabulary without the ids that contain control characters, including line ends.

    JSON does not allow them in strings, but xgrammar does; between its parts, JSON does not need them.
    """
    return [b"" if any(byte < 32 for byte in word) else word for word in words]


def text_grammars(server_args: Any, _tokenizer: Any, vocab_size: int, _eos: Any) -> TextGrammarBackend:
    """Factory for SGLang's registry."""
    return TextGrammarBackend(model_config_of(server_args).hf_config, server_args.tokenizer_path, vocab_size)
