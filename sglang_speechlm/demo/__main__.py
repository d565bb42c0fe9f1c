"""``python -m sglang_speechlm.demo``: a short conversation in text and sound."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import openai

from sglang_speechlm.demo import GUIDANCE, MODEL
from sglang_speechlm.demo.player import play
from sglang_speechlm.demo.progress import Progress
from sglang_speechlm.demo.questions import QUESTION, Conversation
from sglang_speechlm.demo.spectrogram import draw
from sglang_speechlm.process import ServerFailed, ServerProcess

CONTEXT = 16384
"""Context length, as large as the usage guide's payloads require."""
_START_SECONDS = 600


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demonstration; return the exit status: 0 for success, 1 for failure, 130 if interrupted."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    progress = Progress()
    try:
        options.output.mkdir(parents=True, exist_ok=True)
        with (
            _server(options.model, options.output / "server.log", progress) as url,
            openai.OpenAI(
                base_url=f"{url}/v1",
                api_key="none",
                max_retries=0,
                http_client=openai.DefaultHttpxClient(trust_env=False),
            ) as client,
        ):
            conversation = Conversation(client, client.models.list().data[0].id, options.output, progress)
            conversation.write("What can you do?")
            conversation.speak("Say: The green bird sits near the bridge.", "unguided.wav", 1.0)
            conversation.speak("Say: The green bird sits near the bridge.", "guided.wav", GUIDANCE)
            conversation.listen(QUESTION, "answer.wav", GUIDANCE)
    except KeyboardInterrupt:
        progress.step("interrupted")
        return 130
    except (ServerFailed, openai.APIError, OSError, ValueError) as error:
        progress.step(f"failed: {error}")
        return 1
    sounds = conversation.sounds
    picture = options.output / "spectrograms.png"
    draw([sound.file for sound in sounds], picture)
    seconds = sum(sound.duration for sound in sounds)
    progress.step(f"done: {seconds:.1f} s of sound in {sum(sound.made_in for sound in sounds):.1f} s")
    played = play(sounds[-1].file)
    progress.note(f"{'played' if played else 'listen to'} {sounds[-1].file}; see {picture}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sglang_speechlm.demo", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL, help="a served directory (default: the model in the box)")
    parser.add_argument(
        "--output", type=Path, default=Path("demo-output"), help="where the WAV and the log go (default: %(default)s)"
    )
    return parser


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def _server(model: Path, log: Path, progress: Progress) -> Iterator[str]:
    """Start a server, yield its URL when it is ready, and always stop it."""
    progress.step(f"starting a server for {model}; its log is {log}")
    server = ServerProcess(model, log, ("--max-total-tokens", str(CONTEXT)))
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not server.is_ready():
            if time.monotonic() > deadline:
                raise ServerFailed(f"the server was not ready after {_START_SECONDS} s; see {log}")
            progress.wait("still starting")
        progress.step(f"ready at {server.url}")
        yield server.url
    finally:
        progress.step("stopping the server")
        server.stop()


if __name__ == "__main__":
    sys.exit(main())
