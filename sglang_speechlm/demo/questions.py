"""The three things that the demonstration asks, with the stock openai client."""

from __future__ import annotations

import base64
import io
import time
from pathlib import Path

import numpy as np
import openai
import soundfile
from openai.types.chat import ChatCompletionMessageParam

from sglang_speechlm.codec import encode_wav
from sglang_speechlm.demo.progress import Progress

_RATE = 16000
_SEED = 1


def write(client: openai.OpenAI, model: str, progress: Progress) -> None:
    """Ask for text."""
    question = "What is machine learning?"
    progress.step("it writes")
    progress.quote("you", question)
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=60, seed=_SEED
    )
    progress.quote("it", answer.choices[0].message.content or "")


def speak(client: openai.OpenAI, model: str, progress: Progress, file: Path) -> Path:
    """Ask for text and sound, and write the sound to ``file``.

    Raises:
        ValueError: if the answer has no sound.
    """
    question = "Tell me a story in a calm voice."
    progress.step("it speaks")
    progress.quote("you", question)
    start = time.monotonic()
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": question}],
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
        max_tokens=1000,
        seed=_SEED,
        # Two seconds at the least, so that there is something to hear whatever the model thinks.
        extra_body={"speechlm": {"audio_min_frames": 100}},
    )
    seconds = time.monotonic() - start
    message = answer.choices[0].message
    progress.quote("it", message.content or "")
    if message.audio is None:
        raise ValueError("the answer has no sound")
    data = base64.b64decode(message.audio.data)
    file.write_bytes(data)
    sound = soundfile.info(io.BytesIO(data))
    progress.note(f"{file}: {sound.duration:.2f} s of sound at {sound.samplerate} Hz, made in {seconds:.2f} s")
    return file


def listen(client: openai.OpenAI, model: str, progress: Progress) -> None:
    """Ask about a clip: a second of a tone."""
    tone = 0.3 * np.sin(2 * np.pi * 440 * np.arange(_RATE) / _RATE)
    clip = base64.b64encode(encode_wav(tone.astype(np.float32), _RATE)).decode()
    question = "What sound is in this audio?"
    messages: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": clip, "format": "wav"}}]},
        {"role": "user", "content": question},
    ]
    progress.step("it listens, to a second of a tone of 440 Hz")
    progress.quote("you", question)
    answer = client.chat.completions.create(model=model, messages=messages, max_tokens=60, seed=_SEED)
    progress.quote("it", answer.choices[0].message.content or "")
    details = answer.usage.prompt_tokens_details if answer.usage else None
    progress.note(f"the clip took {details.audio_tokens if details else 0} of the model's positions")
