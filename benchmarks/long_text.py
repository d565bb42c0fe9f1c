"""Whether a long text is spoken whole: its words, according to a recogniser, against those of its sentences alone.

    python -m benchmarks.long_text --output benchmarks/results/long_text.json

Sentences that the model in the box was not trained on, followed by some that it was, are spoken as one ``input``, and
meanwhile as one request each, by the same server. The long sound is cut at its pauses for the recogniser, which hears
both with the same language model.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jiwer
import numpy as np
import numpy.typing as npt
import soundfile
from tqdm import tqdm

from benchmarks.machine import record
from sglang_speechlm.audio.windows import cut
from sglang_speechlm.demo import GUIDANCE, MODEL
from sglang_speechlm.demo.recipe import corpus
from sglang_speechlm.demo.recipe.recogniser import Recogniser, bigram, spoken_words
from sglang_speechlm.process import running

RATE = 16_000
Sound = npt.NDArray[np.int16]
_WINDOW_SECONDS = 20.0
"""Maximum length of the pieces of a long sound that the recogniser hears."""
_AT_ONCE = 3


def _speak(client: httpx.Client, text: str, cfg: float, seed: int) -> Sound:
    body = {
        "input": text,
        "voice": "alloy",
        "response_format": "wav",
        "sample_rate": RATE,
        "speechlm": {"cfg": cfg, "seed": seed},
    }
    response = client.post("/v1/audio/speech", json=body)
    response.raise_for_status()
    if (warnings := response.headers.get("x-speechlm-warnings")) is not None:
        raise RuntimeError(f"the text was not spoken whole: {warnings}")
    sound, _ = soundfile.read(io.BytesIO(response.content), dtype="int16")
    return sound


def words(sentences: Iterable[str]) -> list[str]:
    """Return the words of sentences in their order."""
    return [word for sentence in sentences for word in spoken_words(sentence)]


def heard(recogniser: Recogniser, sounds: Sequence[Sound]) -> list[str]:
    """Return the recognised words of sounds in their order; long sounds are cut at pauses."""
    found: list[str] = []
    for sound in tqdm(sounds, desc="Recogniser", unit="sound"):
        samples = (sound / 32768).astype(np.float32)
        for window in cut([samples], RATE, _WINDOW_SECONDS):
            found += recogniser.hear((window.samples * 32767).astype(np.int16)).split()
    return found


def _row(speech: str, sentences: Sequence[str], recogniser: Recogniser, sounds: Sequence[Sound]) -> dict[str, Any]:
    errors = jiwer.process_words(" ".join(words(sentences)), " ".join(heard(recogniser, sounds)))
    return {
        "speech": speech,
        "words": len(words(sentences)),
        "sound_seconds": round(sum(map(len, sounds)) / RATE, 1),
        "word_error_rate": round(errors.wer, 4),
        "substitutions": errors.substitutions,
        "deletions": errors.deletions,
        "insertions": errors.insertions,
    }


def _measure(
    url: str, sentences: Sequence[str], alone: int, cfg: float, recogniser: Recogniser
) -> list[dict[str, Any]]:
    some = sentences[:: -(-len(sentences) // alone)]
    with httpx.Client(base_url=url, timeout=None, trust_env=False) as client, ThreadPoolExecutor(_AT_ONCE) as threads:
        whole = threads.submit(_speak, client, " ".join(sentences), cfg, 0)
        spoken = threads.map(lambda pair: _speak(client, pair[1], cfg, 10_000 + pair[0]), enumerate(some))
        single = list(tqdm(spoken, total=len(some), desc="Sentences", unit="sentence"))
        long = whole.result()
    return [_row("one text", sentences, recogniser, [long]), _row("sentences alone", some, recogniser, single)]


def main() -> None:
    """Measure, print the figures, and write them with a description of the machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.long_text", description=__doc__)
    parser.add_argument("--words", type=int, default=2000, help="minimum words of the text (default: %(default)s)")
    parser.add_argument(
        "--alone", type=int, default=1000, help="maximum sentences to speak alone (default: %(default)s)"
    )
    parser.add_argument("--cfg", type=float, default=GUIDANCE, help="guidance scale (default: %(default)s)")
    parser.add_argument(
        "--log", type=Path, default=Path(".checkpoints/long_text.log"), help="the server's log (default: %(default)s)"
    )
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    options = parser.parse_args()
    train, held_out = corpus.split(8000)
    sentences: list[str] = []
    for sentence in (*held_out, *train):
        if len(words(sentences)) >= options.words:
            break
        sentences.append(sentence.text)
    recogniser = Recogniser(bigram([words(sentence.text for sentence in train)]))
    options.log.parent.mkdir(parents=True, exist_ok=True)
    arguments = ("--max-total-tokens", "8192")
    with running(MODEL, options.log, arguments, environment={"OMP_NUM_THREADS": "1"}) as server:
        rows = _measure(server.url, sentences, options.alone, options.cfg, recogniser)
    figures = {"sentences": len(sentences), "cfg": options.cfg, "rows": rows}
    print(json.dumps(figures, indent=2))
    if options.output:
        record(options.output, figures)


if __name__ == "__main__":
    main()
