"""Speech for the corpus by flite (Debian package ``flite``; its voices are of CMU, under a BSD-like licence)."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import soundfile
from tqdm import tqdm

RATE = 16_000
VOICE = "rms"
VOICES = ("rms", "slt", "awb", "kal16")
_PAUSE = "pau"
_MARGIN_SECONDS = 0.08
"""Silence to keep before and after the speech."""


@dataclass(frozen=True, eq=False)
class Utterance:
    """A text, spoken.

    Attributes:
        samples: int16 [n] at 16 kHz.
        phones: name and end in seconds of each phone, including pauses.
        word_of_phone: each phone's index into the text's words; -1 for pauses.
    """

    text: str
    samples: npt.NDArray[np.int16]
    phones: list[tuple[str, float]]
    word_of_phone: list[int]

    @property
    def sound(self) -> npt.NDArray[np.float32]:
        """The samples, scaled to -1 to 1."""
        sound: npt.NDArray[np.float32] = self.samples.astype(np.float32) / np.float32(32768)
        return sound


class SynthesisError(RuntimeError):
    """flite is not installed or failed."""


def synthesize(texts: Iterable[str], voice: str = VOICE) -> Iterator[Utterance]:
    """Speak each text, in order.

    Raises:
        SynthesisError: if flite is missing or fails, or spoke other phones than the text's words have.
    """
    if not shutil.which("flite"):
        raise SynthesisError("flite is not installed (Debian, Ubuntu: apt-get install flite)")
    everything = list(texts)
    with ThreadPoolExecutor() as threads:
        yield from tqdm(
            threads.map(lambda text: _speak(text, voice), everything),
            total=len(everything),
            desc=f"Speaking ({voice})",
            unit="text",
        )


def words_of(text: str) -> list[tuple[int, int]]:
    """Return where each word of ``text`` begins and ends."""
    return [match.span() for match in re.finditer(r"[A-Za-z']+", text)]


def _speak(text: str, voice: str) -> Utterance:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        printed = _flite("-voice", voice, "-psdur", "-t", text, "-o", str(file))
        samples, rate = soundfile.read(file, dtype="int16")
    if rate != RATE:
        raise SynthesisError(f"flite's voice {voice} has a sample rate of {rate} Hz; {RATE} Hz is needed")
    phones = [(name, float(end)) for name, end in (item.split(":") for item in printed.split())]
    begin, end = 0.0, phones[-1][1]
    if phones[0][0] == _PAUSE:
        begin = max(0.0, phones[0][1] - _MARGIN_SECONDS)
    if phones[-1][0] == _PAUSE:
        end = min(end, phones[-2][1] + _MARGIN_SECONDS)
    words = [text[first:last] for first, last in words_of(text)]
    word_of_phone = _align([name for name, _ in phones], [_phone_count(word.lower(), voice) for word in words], text)
    return Utterance(
        text,
        samples[int(begin * RATE) : int(end * RATE)],
        [(name, min(time, end) - begin) for name, time in phones],
        word_of_phone,
    )


def _align(phones: list[str], counts: list[int], text: str) -> list[int]:
    spoken = [word for word, count in enumerate(counts) for _ in range(count)]
    if len(spoken) != sum(name != _PAUSE for name in phones):
        raise SynthesisError(f"{text!r}: flite spoke {phones}, but its words alone have {counts} phones")
    following = iter(spoken)
    return [-1 if name == _PAUSE else next(following) for name in phones]


@functools.cache
def _phone_count(word: str, voice: str) -> int:
    printed = _flite("-voice", voice, "-ps", "-t", word, "none")
    return sum(name != _PAUSE for name in printed.split())


def _flite(*arguments: str) -> str:
    done = subprocess.run(["flite", *arguments], capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        raise SynthesisError(f"flite {' '.join(arguments)} failed: {done.stderr.strip() or done.returncode}")
    return done.stdout
