"""How well the recipe's model writes, speaks and hears, according to an independent recogniser, through a server.

    python -m benchmarks.voice --work .recipe --output benchmarks/results/voice.json

Word error rates on held-out sentences: of the synthesizer's voice (the best possible), of the codec, and of spoken
answers by guidance scale, with 95 % intervals from resampled sentences; then the fixed questions, and clips. The work
folder is that of ``python -m sglang_speechlm.recipe``, whose stages make the speech and the codes.
"""

from __future__ import annotations

import argparse
import base64
import io
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jiwer
import numpy as np
import numpy.typing as npt
import soundfile
import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from benchmarks.machine import record, title
from sglang_speechlm.codec import encode_wav
from sglang_speechlm.codec.worker.xcodec import load_xcodec
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.demo import MODEL
from sglang_speechlm.demo.recipe import corpus
from sglang_speechlm.demo.recipe.clips import SOUND_MAKERS, varied
from sglang_speechlm.demo.recipe.recogniser import Recogniser, bigram, spoken_words, unigram
from sglang_speechlm.demo.recipe.speech import load_speech
from sglang_speechlm.demo.recipe.words import NAMEABLE
from sglang_speechlm.process import running

RATE = 16_000
Sound = npt.NDArray[np.int16]
_RESAMPLED = 2000
_AT_ONCE = 8
_COLUMNS = ("speech", "bigram", "bigram_low", "bigram_high", "unigram", "exact_text")


@dataclass(frozen=True)
class Recognisers:
    """The recogniser, once with each language model."""

    bigram: Recogniser
    unigram: Recogniser

    @classmethod
    def of(cls, train: Sequence[corpus.Sentence]) -> Recognisers:
        """Create recognisers for the words of the templates, and for their order in the training sentences."""
        texts = [spoken_words(sentence.text) for sentence in train]
        return cls(Recogniser(bigram(texts)), Recogniser(unigram(word for text in texts for word in text)))


class Errors:
    """Wrong and total words by sentence.

    Args:
        wanted, heard: all sentences once, then all of them again, and so on.
        takes: number of repetitions of each sentence.
    """

    def __init__(self, wanted: Sequence[str], heard: Sequence[str], takes: int = 1) -> None:
        found = [jiwer.process_words(want, hear) for want, hear in zip(wanted, heard, strict=True)]
        wrong = np.array([errors.substitutions + errors.deletions + errors.insertions for errors in found])
        words = np.array([len(want.split()) for want in wanted])
        self.wrong, self.words = (counts.reshape(takes, -1).sum(0) for counts in (wrong, words))

    @property
    def rate(self) -> float:
        return float(self.wrong.sum() / self.words.sum())

    def resampled(self) -> npt.NDArray[np.float64]:
        """Return error rates of resampled sentences; sets of equal size are resampled in the same way."""
        drawn = np.random.default_rng(0).integers(len(self.wrong), size=(_RESAMPLED, len(self.wrong)))
        return self.wrong[drawn].sum(1) / self.words[drawn].sum(1)


def _ask(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    response = client.post("/v1/chat/completions", json=body)
    response.raise_for_status()
    message: dict[str, Any] = response.json()["choices"][0]["message"]
    return message


def _spoken(client: httpx.Client, requests: Sequence[str], cfg: float) -> list[tuple[str, Sound]]:
    """Return text and sound of the answers to requests, sent a few at a time."""

    def answer(numbered: tuple[int, str]) -> tuple[str, Sound]:
        seed, text = numbered
        message = _ask(
            client,
            {
                "messages": [{"role": "user", "content": text}],
                "max_tokens": 800,
                "speechlm": {"mode": "text_audio", "cfg": cfg, "seed": seed},
            },
        )
        data, _ = soundfile.read(io.BytesIO(base64.b64decode(message["audio"]["data"])), dtype="int16")
        return message["content"], data

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        answers = threads.map(answer, enumerate(requests))
        return list(tqdm(answers, total=len(requests), desc=f"Guidance {cfg:g}", unit="answer"))


def _row(
    speech: str,
    wanted: Sequence[str],
    sounds: Sequence[Sound],
    recognisers: Recognisers,
    texts: Sequence[str],
    takes: int = 1,
) -> dict[str, Any]:
    words = [" ".join(spoken_words(text)) for text in wanted]
    by = {
        name: Errors(
            words, [recogniser.hear(sound) for sound in tqdm(sounds, desc=f"{speech}, {name}", unit="answer")], takes
        )
        for name, recogniser in (("bigram", recognisers.bigram), ("unigram", recognisers.unigram))
    }
    low, high = np.percentile(by["bigram"].resampled(), (2.5, 97.5))
    return {
        "speech": speech,
        "bigram": round(by["bigram"].rate, 4),
        "bigram_low": round(float(low), 4),
        "bigram_high": round(float(high), 4),
        "unigram": round(by["unigram"].rate, 4),
        "exact_text": round(float(np.mean([text == exact for text, exact in zip(texts, wanted, strict=True)])), 3),
        "_errors": by["bigram"],
    }


def _by_template(held_out: Sequence[corpus.Sentence], errors: Errors) -> dict[str, float]:
    names = np.array([sentence.template for sentence in held_out])
    return {
        str(name): round(float(errors.wrong[names == name].sum() / errors.words[names == name].sum()), 4)
        for name in dict.fromkeys(names)
    }


def _questions(client: httpx.Client, cfg: float) -> dict[str, int]:
    """Count the fixed questions whose answers have the exact text, and are recognised as it when spoken."""
    questions = corpus.fixed_answers()
    recogniser = Recogniser(bigram([spoken_words(answer) for answer in questions.values()]))
    answers = _spoken(client, list(questions), cfg)
    pairs = list(zip(questions.values(), answers, strict=True))
    return {
        "asked": len(pairs),
        "exact_text": sum(text == answer for answer, (text, _) in pairs),
        "recognised": sum(recogniser.hear(sound).split() == spoken_words(answer) for answer, (_, sound) in pairs),
    }


def _clips(client: httpx.Client, heard: Path) -> dict[str, dict[str, int]]:
    """Count the clips of each kind that are identified correctly; they are varied differently than in training."""
    random = np.random.default_rng(12345)
    named = {utterance.text: utterance.sound for utterance in load_speech(heard) if utterance.text in NAMEABLE}
    words = random.choice(list(named), 55, replace=False)
    clips = [(word, "word", varied(named[word], random)) for word in words]
    clips += [(kind, kind, make(random)) for kind, make in SOUND_MAKERS.items() for _ in range(15)]
    counts: dict[str, dict[str, int]] = {}
    for name, kind, sound in clips:
        part = {"data": base64.b64encode(encode_wav(sound, RATE)).decode(), "format": "wav"}
        user = [{"type": "input_audio", "input_audio": part}, {"type": "text", "text": "What sound is in this audio?"}]
        message = _ask(client, {"messages": [{"role": "user", "content": user}], "max_tokens": 40, "temperature": 0})
        count = counts.setdefault(kind, {"asked": 0, "right": 0})
        count["asked"] += 1
        count["right"] += message["content"] == corpus.named(name)
    return counts


def _real_time(client: httpx.Client, requests: Sequence[str], cfg: float) -> float:
    """Return the seconds of sound per second, for one listener to streamed answers."""
    seconds = sound = 0.0
    for text in requests:
        body = {
            "messages": [{"role": "user", "content": text}],
            "stream": True,
            "modalities": ["text", "audio"],
            "audio": {"voice": "alloy", "format": "pcm16"},
            "sample_rate": RATE,
            "max_tokens": 800,
            "speechlm": {"cfg": cfg, "seed": 1, "return_ids": False},
        }
        begin = time.monotonic()
        answer = client.post("/v1/chat/completions", json=body)
        seconds += time.monotonic() - begin
        sound += len(answer.text) * 3 / 4 / 2 / RATE  # nearly all of the response is base64 of 16-bit samples
    return round(sound / seconds, 2)


def _measure(
    url: str, work: Path, model: Path, sentences: int, scales: Sequence[float], takes: int, recognisers: Recognisers
) -> dict[str, Any]:
    _, held_out = corpus.split(sentences)
    wanted = [sentence.text for sentence in held_out]
    voice = [utterance.samples for utterance in load_speech(work / "held_out.npz")]
    codes = torch.load(work / "codec.pt", weights_only=True)["held_out"]
    codec = load_xcodec(model, SpeechLMConfig.from_pretrained(model), "cpu")
    with torch.no_grad():
        coded = [_pcm16(codec.decode(code.T[None]).audio_values[0, 0].numpy()) for code in codes]
    rows = [_row("voice", wanted, voice, recognisers, wanted), _row("codec", wanted, coded, recognisers, wanted)]
    requests = [f"Say: {text}" for text in wanted]
    generated: dict[float, list[Sound]] = {}
    with httpx.Client(base_url=url, timeout=600, trust_env=False) as client:
        for cfg in scales:
            answers = _spoken(client, requests * takes, cfg)
            generated[cfg] = [sound for _, sound in answers]
            written = [text for text, _ in answers]
            rows.append(_row(f"cfg {cfg:g}", wanted * takes, generated[cfg], recognisers, written, takes))
        best = min(range(len(scales)), key=lambda index: rows[2 + index]["bigram"])
        errors: list[Errors] = [row.pop("_errors") for row in rows]
        saved = 1 - errors[2 + best].resampled() / errors[2].resampled()
        figures = {
            "best_cfg": scales[best],
            "fewer_errors_than_unguided": [round(float(x), 3) for x in np.percentile(saved, (2.5, 50, 97.5))],
            "by_template": _by_template(held_out, errors[2 + best]),
            "questions": _questions(client, scales[best]),
            "clips": _clips(client, work / "heard-rms.npz"),
            "sound_seconds_per_second_streamed": _real_time(client, requests[:20], scales[best]),
        }
    return {**figures, "rows": rows, "_sounds": (voice[0], coded[0], generated[scales[best]][0])}


def _pcm16(sound: npt.NDArray[np.float32]) -> Sound:
    return (np.clip(sound, -1, 1) * 32767).astype(np.int16)


def _draw(file: Path, figures: dict[str, Any], scales: Sequence[float], sounds: Sequence[Sound], name: str) -> None:
    figure = Figure(figsize=(10, 7), layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(1, 1.2))
    axes = figure.add_subplot(grid[0, :])
    guided = figures["rows"][2:]
    middle = np.array([row["bigram"] for row in guided]) * 100
    reach = [
        middle - [row["bigram_low"] * 100 for row in guided],
        [row["bigram_high"] * 100 for row in guided] - middle,
    ]
    axes.errorbar(scales, middle, reach, marker="o", capsize=3, label="domain bigram, 95 %")
    axes.plot(scales, [row["unigram"] * 100 for row in guided], marker="s", linestyle=":", label="uniform unigram")
    axes.set(title=name, xlabel="guidance scale (cfg)", ylabel="word error rate, %", ylim=(0, None))
    axes.legend()
    for column, (sound, label) in enumerate(zip(sounds, ("voice", "codec", "answer"), strict=True)):
        place = figure.add_subplot(grid[1, column])
        place.specgram(sound.astype(np.float64) + 1e-3, NFFT=512, Fs=RATE, noverlap=384, cmap="magma", vmin=-60)
        place.set(title=label, xlabel="s")
    figure.savefig(file, dpi=110)


def main() -> None:
    """Measure, print the table, and write JSON, picture and a WAV to play."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.voice", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--work", type=Path, default=Path(".recipe"))
    parser.add_argument(
        "--sentences", type=int, default=8000, help="sentences, as in the recipe (default: %(default)s)"
    )
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.5, 2.0, 2.5, 3.0])
    parser.add_argument("--takes", type=int, default=1, help="answers per sentence and scale (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/voice.json"))
    options = parser.parse_args()
    train, _ = corpus.split(options.sentences)
    log = options.work / "judge-server.log"
    with running(options.model, log, ("--max-total-tokens", "16384")) as server:
        recognisers = Recognisers.of(train)
        figures = _measure(
            server.url, options.work, options.model, options.sentences, options.scales, options.takes, recognisers
        )
    sounds = figures.pop("_sounds")
    machine = record(options.output, figures)
    _draw(options.output.with_suffix(".png"), figures, options.scales, sounds, title("spoken answers", machine))
    options.output.with_suffix(".wav").write_bytes(encode_wav(sounds[-1].astype(np.float32) / 32768, RATE))
    print("  ".join(f"{name:>11}" for name in _COLUMNS))
    for row in figures["rows"]:
        print("  ".join(f"{row[name]:>11}" for name in _COLUMNS))
    for name in ("best_cfg", "fewer_errors_than_unguided", "questions", "clips", "sound_seconds_per_second_streamed"):
        print(f"{name}: {figures[name]}")


if __name__ == "__main__":
    main()
