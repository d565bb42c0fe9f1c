"""Speak one text at three guidance scales, in branches of SGLang's frontend language that share the prompt."""

import os

from sglang_speechlm import frontend  # before sglang: makes SGLang importable without a GPU

import sglang as sgl  # isort: skip

SCALES = (1.0, 1.5, 2.0)


@sgl.function
def speak(s, text):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201
    s += sgl.user(f"Say: {text}")
    voices = s.fork(len(SCALES))
    voices += lambda i: sgl.assistant(frontend.speak("voice", text=text, cfg=SCALES[i], seed=1))
    voices.join()


url = os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:9000/v1").rstrip("/").removesuffix("/v1")
state = speak.run("The green bird sits near the bridge.", backend=frontend.SpeechLM(url))
for scale, voice in zip(SCALES, state["voice"], strict=True):
    voice.save(f"voice-{scale}.wav")
    print(f"voice-{scale}.wav: {voice.finish_reason}")
