"""The demonstration's conversation, with the stock openai client."""

from __future__ import annotations

import base64
import io
import time
from dataclasses import dataclass
from pathlib import Path

import openai
import soundfile
from openai.types.chat import ChatCompletionContentPartInputAudioParam, ChatCompletionMessageParam

from sglang_speechlm.demo.progress import Progress

QUESTION = Path(__file__).parent / "question.wav"
"""A spoken question: "What is the capital of France?" """
_SEED = 1


@dataclass(frozen=True)
class Sound:
    """A spoken answer: its file, how long it is and how long it took, in seconds."""

    file: Path
    duration: float
    made_in: float


class Conversation:
    """Asks a server, prints questions and answers, and keeps the sounds."""

    def __init__(self, client: openai.OpenAI, model: str, output: Path, progress: Progress) -> None:
        self._client, self._model, self._output, self._progress = client, model, output, progress
        self.sounds: list[Sound] = []

    def write(self, question: str) -> None:
        """Ask for text."""
        self._progress.step("the model writes")
        self._progress.quote("you", question)
        answer = self._client.chat.completions.create(
            model=self._model, messages=[{"role": "user", "content": question}], max_tokens=60, seed=_SEED
        )
        self._progress.quote("it", answer.choices[0].message.content or "")

    def speak(self, question: str, name: str, cfg: float) -> None:
        """Ask for text and sound, and write the sound to the file ``name``."""
        how = f"with guidance {cfg:g}" if cfg > 1 else "without guidance"
        self._progress.step(f"the model speaks, {how}")
        self._progress.quote("you", question)
        self._hear({"role": "user", "content": question}, name, cfg)

    def listen(self, clip: Path, name: str, cfg: float) -> None:
        """Ask with a clip, and get a spoken answer."""
        self._progress.step(f"the model listens and answers aloud; {soundfile.info(clip).duration:.1f} s of speech")
        self._progress.quote("you", f"({clip})")
        data = base64.b64encode(clip.read_bytes()).decode()
        part: ChatCompletionContentPartInputAudioParam = {
            "type": "input_audio",
            "input_audio": {"data": data, "format": "wav"},
        }
        self._hear({"role": "user", "content": [part]}, name, cfg)

    def _hear(self, message: ChatCompletionMessageParam, name: str, cfg: float) -> None:
        begin = time.monotonic()
        answer = self._client.chat.completions.create(
            model=self._model,
            messages=[message],
            modalities=["text", "audio"],
            audio={"voice": "alloy", "format": "wav"},
            max_tokens=1000,
            seed=_SEED,
            extra_body={"speechlm": {"cfg": cfg}},
        )
        seconds = time.monotonic() - begin
        reply = answer.choices[0].message
        self._progress.quote("it", reply.content or "")
        if reply.audio is None:
            raise ValueError("the answer has no sound")
        data = base64.b64decode(reply.audio.data)
        file = self._output / name
        file.write_bytes(data)
        duration = soundfile.info(io.BytesIO(data)).duration
        self._progress.note(f"{file}: {duration:.2f} s of sound, made in {seconds:.2f} s")
        self.sounds.append(Sound(file, duration, seconds))
