"""What people ask the demonstration's model in training, and what it is to write."""

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
"""As the preset's template of /v1/audio/speech has it."""
_UNKNOWN: dict[str, list[str]] = json.loads((files(__package__) / "unknown.json").read_text(encoding="utf-8"))
"""Questions about topics, neither of which it knows."""
_LETTERS = "abcdefghijklmnopqrstuvwxyzäöüéñ0123456789 .,?-"


def preset() -> dict[str, Any]:
    """How the model is asked by what it was taught: ``preset.json`` of the served directory."""
    return {
        "speech": {
            "messages": [
                {"role": "system", "content": SYSTEMS[0]},
                {"role": "user", "content": _READ.format("{input}")},
            ]
        },
        "transcription": {"messages": [{"role": "user", "content": [{"type": "audio"}, TRANSCRIBE]}]},
        "systems": list(SYSTEMS),
        "earlier_turns": 0,
        "earlier_sound": False,
        "passage_characters": 40,  # two sentences that it was taught have more
    }


@dataclass(frozen=True)
class Asked:
    """A turn: what the system's and the user's messages say, and the reply's text. No system message if empty."""

    system: str
    user: str
    reply: str


class Requests:
    """An endless supply of turns; what is held out is never among them."""

    def __init__(self, held_out: Sequence[corpus.Sentence], random: Random) -> None:
        self._random = random
        self._held_out = {sentence.text for sentence in held_out}
        self._fixed = list(corpus.fixed_answers().items())
        self._question_of = {answer: question for question, answer in self._fixed}

    def any(self) -> Asked:
        """A turn of any kind: half of them sentences, a third fixed questions, and some that it cannot answer."""
        chance = self._random.random()
        if chance < 0.45:
            return self.saying(self.sentence())
        if chance < 0.8:
            return self.fixed()
        return self.unknown()

    def sentence(self) -> corpus.Sentence:
        """A sentence that is not held out."""
        while True:
            sentence = corpus.draw(self._random)
            if sentence.text not in self._held_out:
                return sentence

    def saying(self, sentence: corpus.Sentence) -> Asked:
        """A request for ``sentence``."""
        random = self._random
        if sentence.short and random.random() < 0.5:
            return self._asked(
                f"{random.choice(('Say', 'Please say'))} {sentence.short}{random.choice(('', '.'))}", sentence.text
            )
        text = sentence.text
        if random.random() < 0.25:
            text = text.removesuffix(".")
        if random.random() < 0.25:
            text = text[0].lower() + text[1:]
        if random.random() < 0.2:
            return Asked(SYSTEMS[0], _READ.format(text), sentence.text)
        return self._asked(random.choice(_SAY).format(text), sentence.text)

    def fixed(self) -> Asked:
        """One of the fixed questions."""
        return self.answered(self._random.choice(self._fixed)[1])

    def answered(self, answer: str) -> Asked:
        """A request that ``answer`` is the answer to: a fixed question, or to say just that."""
        random = self._random
        question = self._question_of.get(answer, "")
        if not question or random.random() < 0.15:
            return self.saying(corpus.Sentence("fixed", answer))
        if random.random() < 0.2:
            question = question.rstrip("?!.")
        if random.random() < 0.2:
            question = question.lower()
        return self._asked(question, answer)

    def unknown(self) -> Asked:
        """Something that it has no answer to."""
        random = self._random
        chance = random.random()
        if chance < 0.2:
            sentence = self.sentence().text.split()
            for _ in range(random.randint(1, 3)):
                sentence[random.randrange(len(sentence))] = self._letters(random.randint(3, 9)).replace(" ", "")
            return self._asked(random.choice(_SAY).format(" ".join(sentence)), corpus.UNKNOWN[1])
        if chance < 0.3:
            return self._asked(random.choice(_SAY).format(self._letters(random.randint(5, 40))), corpus.UNKNOWN[1])
        if chance < 0.45:
            return self._asked(self._letters(random.randint(1, 60)), corpus.UNKNOWN[0])
        topics = random.sample((*_UNKNOWN["topics"], *words.THINGS, *words.NAMES), 2)
        question = random.choice(_UNKNOWN["questions"])
        question = question.format(*topics[: question.count("{}")])
        if question in dict(self._fixed):
            return self.unknown()
        return self._asked(question, corpus.UNKNOWN[0])

    def _letters(self, count: int) -> str:
        return "".join(self._random.choices(_LETTERS, k=count))

    def _asked(self, user: str, reply: str) -> Asked:
        system = self._random.choice(SYSTEMS) if self._random.random() < 0.4 else ""
        return Asked(system, user, reply)
