"""Generate the samples next to this file, with the same bytes every time: tones, chords, vowels and lines about them.

python clients/samples/make.py [FOLDER]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import soundfile
from scipy.signal import lfilter

RATE = 8000
Samples = npt.NDArray[np.float64]

_LISTENER = "You are an audio understanding assistant."
_SPEAKER = "You are a helpful assistant that answers aloud."
_FORMANTS = {"ah": (730, 1090), "ee": (270, 2290), "oo": (300, 870)}
"""First two formants of men's voices, in Hz (Peterson and Barney, 1952)."""

_SENTENCES = (
    "Read this aloud in a calm voice: The river is quiet tonight.",
    "Read this aloud in a cheerful voice: Breakfast is ready, come down!",
    "Read this aloud slowly: One, two, three, four, five.",
    "Say in one sentence what a lighthouse is for.",
    "Tell me a very short story about a grey cat.",
    "Read this aloud like a news reader: Heavy snow is expected in the north.",
    "Whisper: The baby has just fallen asleep.",
    "Read this aloud: Seven swans swam silently south.",
    "How do you boil an egg? Answer aloud, in two sentences.",
    "Read this aloud in a tired voice: It has been a long day.",
    "Read this telephone number aloud: five five five, zero one nine nine.",
    "Greet a guest at the door of a small hotel.",
    "Read this aloud as a question: You left the window open?",
    "Describe the smell of rain, aloud.",
    "Read this aloud: The train to the coast leaves from platform nine.",
    "Count down from five, as before a race.",
)


def tone(pitch: float, seconds: float) -> Samples:
    """Return a sine of ``pitch`` Hz."""
    return np.sin(2 * np.pi * pitch * np.arange(round(seconds * RATE)) / RATE)


def sweep(begin: float, end: float, seconds: float) -> Samples:
    """Return a sine whose pitch goes from ``begin`` to ``end`` Hz."""
    return np.sin(2 * np.pi * np.cumsum(np.linspace(begin, end, round(seconds * RATE))) / RATE)


def chord(*pitches: float) -> Samples:
    """Return several decaying pitches at once."""
    together = np.sum([tone(pitch, 0.6) for pitch in pitches], axis=0)
    return together * np.exp(-3 * np.arange(len(together)) / RATE)


def in_a_row(sound: Samples, times: int) -> Samples:
    """Return the sound ``times`` times, with pauses."""
    return np.concatenate([sound, np.zeros(RATE // 8)] * times)


def vowel(first: float, second: float) -> Samples:
    """Return a buzz of 110 Hz through two resonances of 80 Hz width: the source-filter model of speech (Fant, 1960)."""
    voice: Samples = np.zeros(RATE // 2)
    voice[:: round(RATE / 110)] = 1
    for formant in (first, second):
        radius = np.exp(-np.pi * 80 / RATE)
        voice = lfilter([1.0], [1, -2 * radius * np.cos(2 * np.pi * formant / RATE), radius**2], voice)
    return voice


def clips() -> dict[str, Samples]:
    """Return all clips, by file name."""
    noise = np.random.default_rng(0).standard_normal(RATE // 2)
    clicks = np.zeros(RATE // 2)
    clicks[:: RATE // 20] = 1
    return {
        "rising.wav": sweep(300, 1500, 0.5),
        "falling.wav": sweep(1500, 300, 0.5),
        "beeps2.flac": in_a_row(tone(1000, 0.1), 2),
        "beeps3.flac": in_a_row(tone(1000, 0.1), 3),
        "noise.wav": noise,
        "clicks.flac": clicks,
        "siren.flac": np.concatenate([sweep(500, 900, 0.3), sweep(900, 500, 0.3)]),
        "high.flac": tone(2000, 0.4),
        "low.flac": tone(150, 0.4),
        "major.flac": chord(261.6, 329.6, 392.0),
        "minor.flac": chord(261.6, 311.1, 392.0),
        "scale.flac": np.concatenate([tone(pitch, 0.15) for pitch in (261.6, 293.7, 329.6, 349.2)]),
        **{f"{name}.wav": vowel(*formants) for name, formants in _FORMANTS.items()},
    }


def questions() -> list[dict[str, Any]]:
    """Return lines with one correct answer, with the fields of MMAU's files and ESPnet's."""
    pitch, count = ("rising", "falling"), ("one", "two", "three", "four")
    kinds = ("noise", "clicks", "a siren", "beeps")
    vowels = tuple(_FORMANTS)
    rows = [
        ("sound", "pitch", "easy", "rising.wav", "Does the pitch rise or fall?", pitch, 0),
        ("sound", "pitch", "easy", "falling.wav", "Does the pitch rise or fall?", pitch, 1),
        ("sound", "counting", "medium", "beeps2.flac", "How many beeps are there?", count, 1),
        ("sound", "counting", "medium", "beeps3.flac", "How many beeps are there?", count, 2),
        ("sound", "source", "easy", "noise.wav", "What do you hear?", kinds, 0),
        ("sound", "source", "easy", "clicks.flac", "What do you hear?", kinds, 1),
        ("sound", "source", "easy", "siren.flac", "What do you hear?", kinds, 2),
        ("sound", "source", "easy", "beeps3.flac", "What do you hear?", kinds, 3),
        ("music", "pitch", "easy", "high.flac", "Is the tone high or low?", ("high", "low"), 0),
        ("music", "pitch", "easy", "low.flac", "Is the tone high or low?", ("high", "low"), 1),
        ("music", "harmony", "hard", "major.flac", "Which chord is it?", ("major", "minor"), 0),
        ("music", "harmony", "hard", "minor.flac", "Which chord is it?", ("major", "minor"), 1),
        ("music", "melody", "medium", "scale.flac", "Which way does the melody go?", ("up", "down"), 0),
        *(
            ("speech", "phonemes", "medium", f"{name}.wav", "Which vowel is spoken?", vowels, place)
            for place, name in enumerate(vowels)
        ),
    ]
    lines = []
    for number, (task, category, difficulty, clip, question, choices, right) in enumerate(rows, 1):
        options = " ".join(f"({chr(ord('A') + place)}) {choice}" for place, choice in enumerate(choices))
        line = {
            "example_id": f"listen_{number:02d}",
            "messages": [
                ["system", "text", _LISTENER],
                ["user", "audio", f"clips/{clip}"],
                ["user", "text", f"{question} Choose one: {options}"],
            ],
            "choices": list(choices),
            "answer": choices[right],
            "task": task,
            "category": category,
            "difficulty": difficulty,
        }
        lines.append(line)
    return lines


def dialogues() -> list[dict[str, Any]]:
    """Return lines with ESPnet's fields only, in which the assistant's last text is the correct answer."""
    clip, answer = "clips/beeps2.flac", "Two beeps."
    lines = [
        [["user", "text", "What is the capital of France?"], ["assistant", "text", "Paris"]],
        [["user", "text", "Two plus three?"], ["assistant", "text", "Five"], ["user", "text", "And one more?"],
         ["assistant", "text", "Six"]],
        [["user", "audio", clip], ["user", "text", "What was that?"], ["assistant", "text", answer],
         ["user", "text", "How many?"], ["assistant", "text", "two"]],
        [["user", "audio", clip], ["user", "audio", "clips/beeps3.flac"],
         ["user", "text", "Which clip has more beeps, the first or the second?"], ["assistant", "text", "second"]],
    ]  # fmt: skip
    return [
        {"example_id": f"dialogue_{number:02d}", "messages": [["system", "text", _LISTENER], *messages]}
        for number, messages in enumerate(lines, 1)
    ]


def speeches() -> list[dict[str, Any]]:
    """Return lines to be answered in speech; assistant messages, if any, show the form of a ground truth."""
    lines = []
    for number, sentence in enumerate(_SENTENCES, 1):
        messages = [["system", "text", _SPEAKER], ["user", "text", sentence]]
        if sentence.startswith("Read this aloud: "):
            messages.append(["assistant", "text", sentence.removeprefix("Read this aloud: ")])
        lines.append({"example_id": f"speak_{number:02d}", "messages": messages})
    for number, (clip, question) in enumerate(
        (("ah.wav", "Repeat what you hear."), ("scale.flac", "Hum what you hear.")), len(lines) + 1
    ):
        messages = [
            ["user", "audio", f"clips/{clip}"],
            ["user", "text", question],
            ["assistant", "audio", f"clips/{clip}"],
        ]
        lines.append({"example_id": f"speak_{number:02d}", "messages": messages})
    return lines


def make(folder: Path) -> None:
    """Write ``listen.jsonl``, ``speak.jsonl`` and ``clips/``."""
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    for name, samples in clips().items():
        soundfile.write(folder / "clips" / name, 0.5 * samples / np.abs(samples).max(), RATE, subtype="PCM_16")
    _write(folder / "listen.jsonl", [*questions(), *dialogues()])
    _write(folder / "speak.jsonl", speeches())


def _write(path: Path, lines: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
