"""The limits of the recipe's model's hearing: its transcripts of clips that differ more and more from its training.

    python -m benchmarks.depth --output benchmarks/results/depth.json

Held-out sentences and the fixed questions, spoken by flite, are each modified in one way: with silence around them,
noise, another voice, a telephone's band, or two of them in one clip. It needs flite.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jiwer
import numpy as np
import numpy.typing as npt
import soxr
from tqdm import tqdm

from benchmarks.machine import record
from sglang_speechlm.codec import encode_wav
from sglang_speechlm.demo import MODEL
from sglang_speechlm.demo.recipe import corpus
from sglang_speechlm.demo.recipe.recogniser import spoken_words
from sglang_speechlm.demo.recipe.synthesis import RATE, VOICES, synthesize
from sglang_speechlm.process import running

Samples = npt.NDArray[np.float32]
_AT_ONCE = 4
_COLUMNS = ("clips", "exact", "word_errors", "ended")


def _silence(before: float, after: float) -> Callable[[Samples], Samples]:
    return lambda sound: np.pad(sound, (round(before * RATE), round(after * RATE)))


def _noise(decibels: float) -> Callable[[Samples], Samples]:
    """Return a function that adds white noise ``decibels`` below the speech."""

    def noisy(sound: Samples) -> Samples:
        level = float(np.sqrt(np.mean(sound**2))) * 10 ** (-decibels / 20)
        return (sound + np.random.default_rng(len(sound)).normal(0, level, len(sound))).astype(np.float32)

    return noisy


def _telephone(sound: Samples) -> Samples:
    narrow = soxr.resample(sound, RATE, 8000)
    return np.asarray(soxr.resample(narrow, 8000, RATE), np.float32)


_CHANGES: dict[str, Callable[[Samples], Samples]] = {
    "as they are": lambda sound: sound,
    **{f"{seconds:g} s of silence after": _silence(0, seconds) for seconds in (0.3, 0.6, 1, 2, 4, 8)},
    "1 s of silence before": _silence(1, 0),
    **{f"noise {decibels} dB below": _noise(decibels) for decibels in (30, 20, 10)},
    "a telephone's band": _telephone,
}


def _clips(texts: Sequence[str]) -> dict[str, list[tuple[str, Samples]]]:
    """Return transcripts and sounds, by kind of modification."""
    spoken = {voice: [utterance.sound for utterance in synthesize(texts, voice)] for voice in VOICES}
    own = spoken[VOICES[0]]
    kinds = {
        name: [(text, change(sound)) for text, sound in zip(texts, own, strict=True)]
        for name, change in _CHANGES.items()
    }
    kinds |= {f"voice {voice}": list(zip(texts, spoken[voice], strict=True)) for voice in VOICES[1:]}
    following = [*range(1, len(texts)), 0]
    kinds["two in one clip"] = [
        (f"{texts[i]} {texts[j]}", np.concatenate([own[i], own[j]])) for i, j in enumerate(following)
    ]
    return kinds


def _heard(client: httpx.Client, clips: Sequence[tuple[str, Samples]]) -> dict[str, Any]:
    def write_down(clip: tuple[str, Samples]) -> dict[str, Any]:
        files = {"file": ("clip.wav", encode_wav(clip[1], RATE))}
        response = client.post("/v1/audio/transcriptions", files=files)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        return answer

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        answers = list(threads.map(write_down, clips))
    wanted = [" ".join(spoken_words(text)) for text, _ in clips]
    written = [" ".join(spoken_words(answer["text"])) for answer in answers]
    return {
        "clips": len(clips),
        "exact": sum(found == want for found, want in zip(written, wanted, strict=True)),
        "word_errors": round(jiwer.wer(wanted, written), 3),
        "ended": sum("speechlm" in answer for answer in answers),
    }


def main() -> None:
    """Measure, print the table, and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.depth", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument(
        "--sentences", type=int, default=8000, help="sentences, as in the recipe (default: %(default)s)"
    )
    parser.add_argument("--clips", type=int, default=40, help="clips of each kind (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/depth.json"))
    options = parser.parse_args()
    _, held_out = corpus.split(options.sentences)
    half = options.clips // 2
    texts = [
        *list(corpus.fixed_answers())[:: 100 // half][:half],
        *(sentence.text for sentence in held_out[: options.clips - half]),
    ]
    kinds = _clips(texts)
    rows = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        running(options.model, Path(folder) / "log", ("--max-total-tokens", "8192")) as server,
        httpx.Client(base_url=server.url, timeout=600, trust_env=False) as client,
    ):
        for name, clips in tqdm(kinds.items(), unit="kind"):
            rows[name] = _heard(client, clips)
    record(options.output, {"rows": rows})
    print("  ".join([f"{'':24}", *(f"{name:>11}" for name in _COLUMNS)]))
    for name, row in rows.items():
        print("  ".join([f"{name:24}", *(f"{row[column]:>11}" for column in _COLUMNS)]))


if __name__ == "__main__":
    main()
