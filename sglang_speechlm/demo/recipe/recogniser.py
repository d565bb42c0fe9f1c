"""An independent recogniser: pocketsphinx with its own English model, and language models of the corpus's words."""

from __future__ import annotations

import math
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pocketsphinx import Decoder, get_model_path

_DISCOUNT = 0.5
_END_PROBABILITY = 0.1
"""Probability in the uniform model that no further word follows."""
_SILENCE_SECONDS = 0.2


def spoken_words(text: str) -> list[str]:
    """Return the words of a text for counting: in lower case, without punctuation."""
    return re.findall(r"[a-z']+", text.lower())


class Recogniser:
    """Recognises words of a vocabulary.

    Args:
        language: an ARPA language model, as returned by :func:`unigram` and :func:`bigram`.
    """

    def __init__(self, language: str) -> None:
        with tempfile.TemporaryDirectory() as folder:
            model, dictionary = Path(folder) / "words.lm", Path(folder) / "words.dict"
            model.write_text(language)
            dictionary.write_text(_pronunciations(set(spoken_words(language))))
            self._decoder = Decoder(
                hmm=get_model_path("en-us/en-us"), dict=str(dictionary), lm=str(model), loglevel="FATAL"
            )

    def hear(self, samples: npt.NDArray[np.int16]) -> str:
        """Return the words in 16 kHz samples [n], separated by blanks."""
        silence = np.zeros(int(_SILENCE_SECONDS * 16_000), np.int16)
        self._decoder.start_utt()
        self._decoder.process_raw(np.concatenate([silence, samples, silence]).tobytes(), full_utt=True)
        self._decoder.end_utt()
        found = self._decoder.hyp()
        return found.hypstr if found else ""


def _pronunciations(words: set[str]) -> str:
    """Return the lines of pocketsphinx's dictionary with these words; loading all 130,000 takes seconds."""
    with open(get_model_path("en-us/cmudict-en-us.dict")) as lines:
        return "".join(line for line in lines if re.split(r"[( ]", line, maxsplit=1)[0] in words)


def unigram(words: Iterable[str]) -> str:
    """Return a model, in ARPA's format, in which all words are equally likely, so that only the sound decides."""
    vocabulary = sorted(set(words))
    share = math.log10((1 - _END_PROBABILITY) / len(vocabulary))
    lines = [f"{math.log10(_END_PROBABILITY):.4f} </s>", "-99 <s>", *(f"{share:.4f} {word}" for word in vocabulary)]
    return "\n".join(["\\data\\", f"ngram 1={len(lines)}", "", "\\1-grams:", *lines, "", "\\end\\", ""])


def bigram(sentences: Sequence[Sequence[str]]) -> str:
    """Return a bigram model of sentences, in ARPA's format, with absolute discounting (Ney, Essen, Kneser 1994)."""
    pairs = Counter(pair for words in sentences for pair in zip(("<s>", *words), (*words, "</s>"), strict=True))
    singles = Counter(second for _, second in pairs.elements())
    total = singles.total()
    followers = Counter(first for first, _ in pairs)
    firsts: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for (first, second), count in pairs.items():
        firsts[first] += count
        seen[first] += singles[second]
    ones, twos = [], []
    for word in ["<s>", *sorted(singles)]:
        probability = "-99" if word == "<s>" else f"{math.log10(singles[word] / total):.4f}"
        if word not in firsts:
            ones.append(f"{probability} {word}")
            continue
        left = _DISCOUNT * followers[word] / firsts[word]
        unseen = 1 - seen[word] / total
        ones.append(f"{probability} {word} {math.log10(left / max(unseen, 1e-9)):.4f}")
    for (first, second), count in sorted(pairs.items()):
        twos.append(f"{math.log10((count - _DISCOUNT) / firsts[first]):.4f} {first} {second}")
    counts = [f"ngram 1={len(ones)}", f"ngram 2={len(twos)}"]
    return "\n".join(["\\data\\", *counts, "", "\\1-grams:", *ones, "", "\\2-grams:", *twos, "", "\\end\\", ""])
