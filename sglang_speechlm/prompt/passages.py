"""Split a long text into passages that a model can speak well."""

from __future__ import annotations

import re
from itertools import pairwise

from sglang_speechlm.prompt.words import is_speakable

_SENTENCE_END = re.compile(
    r"""(?<!\b[A-Za-z]\.)(?<!\b(?:[DMS][rst]|[JS]r|No|vs|cf)\.)(?<!\b(?:Mrs|Gen|Sen|Rev|Fig|Vol)\.)(?<!\bProf\.)
    (?<!^\d\.)(?<!^\d\d\.) # after initials, titles and numbers of a list, the sentence continues
    (?<=[.!?…:;؟۔؛।॥։።။៕།]) ["'”’»)\]]* \s+ | (?<=[。！？｡]) ["'”’»」』)\]]* | \n\s*""",
    re.VERBOSE | re.MULTILINE,
)
"""No part of it begins with white space: a long run of it would be searched again from each of its characters."""
_CLAUSE_END = re.compile(r"(?<=[,;:–—،])\s+|(?<=[，、；：])")


def passages(text: str, most: int) -> list[str]:
    """Split a text into passages of whole sentences.

    A passage has at most ``most`` characters, unless a single sentence has more. A sentence of more than twice as many
    is split at its clauses, its words, or anywhere. A passage with nothing to speak is dropped.
    """
    sentences = [part for whole in _split(_SENTENCE_END, text) for part in _cut(whole, 2 * most)]
    return [passage.strip() for passage in _packed(sentences, most) if is_speakable(passage)]


def _split(ends: re.Pattern[str], text: str) -> list[str]:
    """Return the pieces of ``text``, each with the white space that follows it."""
    places = [0, *(found.end() for found in ends.finditer(text)), len(text)]
    return [text[begin:end] for begin, end in pairwise(places) if begin < end]


def _cut(sentence: str, most: int) -> list[str]:
    if len(sentence) <= most:
        return [sentence]
    clauses = [part for clause in _split(_CLAUSE_END, sentence) for part in _cut_words(clause, most)]
    return _packed(clauses, most)


def _cut_words(clause: str, most: int) -> list[str]:
    if len(clause) <= most:
        return [clause]
    words = [word[at : at + most] for word in _split(re.compile(r"\s+"), clause) for at in range(0, len(word), most)]
    return _packed(words, most)


def _packed(parts: list[str], most: int) -> list[str]:
    """Join neighbours while they fit. A part that is too long stays alone."""
    packed: list[str] = []
    size = 0
    for part in parts:
        if packed and size + len(part.rstrip()) <= most:
            packed[-1] += part
            size += len(part)
        else:
            packed.append(part)
            size = len(part)
    return packed
