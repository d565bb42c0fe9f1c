"""Ask a spoken question, then a second one that refers to the sound of the first answer by its id."""

import base64
import os
from pathlib import Path
from typing import Any

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:9000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)

QUESTION = Path(__file__).parent.parent / "sglang_speechlm" / "demo" / "question.wav"
clip = {"data": base64.b64encode(QUESTION.read_bytes()).decode(), "format": "wav"}
messages: list[Any] = [{"role": "user", "content": [{"type": "input_audio", "input_audio": clip}]}]
for turn in range(2):
    completion = client.chat.completions.create(
        model="speechlm",
        messages=messages,
        modalities=["text", "audio"],
        audio={"voice": "alloy", "format": "wav"},
        max_tokens=1000,
    )
    message = completion.choices[0].message
    print(message.content)
    if message.audio is None:
        break
    Path(f"turn-{turn}.wav").write_bytes(base64.b64decode(message.audio.data))
    messages.append({"role": "assistant", "audio": {"id": message.audio.id}})
    messages.append({"role": "user", "content": "What is the capital of Italy?"})
