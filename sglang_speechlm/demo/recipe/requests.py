"""The requests to the demonstration's model in training, and its replies."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from random import Random
from typing import Any

from sglang_speechlm.demo.recipe import corpus, words

SYSTEMS = (
    "You are a helpful assistant.",
    "You are a helpful assistant that speaks.",
    "You are an audio understanding assistant.",
    "Answer briefly.",
    "You are a friendly voice.",
)
ABOUT_A_CLIP = (
    "What sound is in this audio?",
    "What do you hear?",
    "What is in this clip?",
    "Name what you hear.",
    "What did you hear in this recording?",
    "Describe the sound.",
)
TRANSCRIBE = "Transcribe the speech in this audio, word for word."
_SAY = ("Say: {}", "Say {}", "Please say: {}", "Repeat after me: {}", "Read this aloud: {}", 'Say "{}"')
_READ = "Read this aloud.\n\n{}"
"""The same as in the preset's template for /v1/audio/speech."""
_UNKNOWN: dict[str, list[str]] = json.loads((files(__package__) / "unknown.json").read_text(encoding="utf-8"))
"""Questions and topics that the model does not know."""
_LETTERS = "abcdefghijklmnopqrstuvwxyzäöüéñ0123456789 .,?-"


def preset() -> dict[str, Any]:
    """Return the content of the served directory's ``preset.json``, which matches the training."""
    return {
        "speech": {
            "messages": [
                {"role": "system", "content": SYSTEMS[0]},
                {"role": "user", "content": _READ.format("{input}")},
            ]
        },
        "transcription": {"messages": [{"role": "user", "content": [{"type": "audio"}, TRANSCRIBE]}]},
        "translation": None,
        "systems": list(SYSTEMS),
        "earlier_turns": 0,
        "earlier_sound": False,
        "passage_characters": 40,  # fewer than two sentences of the training have
        "window_seconds": 6,  # longer than any sentence of the training
        "window_pause_seconds": 0.35,
    }


@dataclass(frozen=True)
class Exchange:
    """The texts of the system message (none if empty), of the user's message, and of the reply."""

    system: str
    user: str
    reply: str


class Requests:
    """An endless supply of exchanges, without the held-out sentences."""

    def __init__(self, held_out: Sequence[corpus.Sentence], random: Random) -> None:
        self._random = random
        self._held_out = {sentence.text for sentence in held_out}
        self._fixed = list(corpus.fixed_answers().items())
        self._question_of = {answer: question for question, answer in self._fixed}

    def exchange(self) -> Exchange:
        """Return a random exchange: about half are sentences, a third fixed questions, the rest unanswerable."""
        chance = self._random.random()
        if chance < 0.45:
            return self.saying(self.sentence())
        if chance < 0.8:
            return self.fixed()
        return self.unknown()

    def sentence(self) -> corpus.Sentence:
        """Return a random sentence that is not held out."""
        while True:
            sentence = corpus.draw(self._random)
            if sentence.text not in self._held_out:
                return sentence

    def saying(self, sentence: corpus.Sentence) -> Exchange:
        """Return a request to say ``sentence``."""
        random = self._random
        if sentence.short and random.random() < 0.5:
            return self._exchange(
                f"{random.choice(('Say', 'Please say'))} {sentence.short}{random.choice(('', '.'))}", sentence.text
            )
        text = sentence.text
        if random.random() < 0.25:
            text = text.removesuffix(".")
        if random.random() < 0.25:
            text = text[0].lower() + text[1:]
        if random.random() < 0.2:
            return Exchange(SYSTEMS[0], _READ.format(text), sentence.text)
        return self._exchange(random.choice(_SAY).format(text), sentence.text)

    def fixed(self) -> Exchange:
        """Return one of the fixed questions."""
        return self.answered(self._random.choice(self._fixed)[1])

    def answered(self, answer: str) -> Exchange:
        """Return a request with the reply ``answer``: a fixed question, or a request to say exactly that."""
        random = self._random
        question = self._question_of.get(answer, "")
        if not question or random.random() < 0.15:
            return self.saying(corpus.Sentence("fixed", answer))
        if random.random() < 0.2:
            question = question.rstrip("?!.")
        if random.random() < 0.2:
            question = question.lower()
        return self._exchange(question, answer)

    def unknown(self) -> Exchange:
        """Return a request that the model cannot answer."""
        random = self._random
        chance = random.random()
        if chance < 0.2:
            sentence = self.sentence().text.split()
            for _ in range(random.randint(1, 3)):
                sentence[random.randrange(len(sentence))] = self._letters(random.randint(3, 9)).replace(" ", "")
            return self._exchange(random.choice(_SAY).format(" ".join(sentence)), corpus.UNKNOWN[1])
        if chance < 0.3:
            return self._exchange(random.choice(_SAY).format(self._letters(random.randint(5, 40))), corpus.UNKNOWN[1])
        if chance < 0.45:
            return self._exchange(self._letters(random.randint(1, 60)), corpus.UNKNOWN[0])
        topics = random.sample((*_UNKNOWN["topics"], *words.THINGS, *words.NAMES), 2)
        question = random.choice(_UNKNOWN["questions"])
        question = question.format(*topics[: question.count("{}")])
        if question in dict(self._fixed):
            return self.unknown()
        return self._exchange(question, corpus.UNKNOWN[0])

    def _letters(self, count: int) -> str:
        return "".join(self._random.choices(_LETTERS, k=count))

    def _exchange(self, user: str, reply: str) -> Exchange:
        system = self._random.choice(SYSTEMS) if self._random.random() < 0.4 else ""
        return Exchange(system, user, reply)
