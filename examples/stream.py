"""Print the text and save the sound (raw 16-bit samples at 24 kHz, in answer.pcm) while they are generated."""

import base64
import os
from pathlib import Path

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:9000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)

chunks = client.chat.completions.create(
    model="speechlm",
    messages=[{"role": "user", "content": "Say: The green bird sits near the bridge."}],
    modalities=["text", "audio"],
    audio={"voice": "alloy", "format": "pcm16"},
    max_tokens=1000,
    stream=True,
)
with Path("answer.pcm").open("wb") as file:
    for chunk in chunks:
        for choice in chunk.choices:
            print(choice.delta.content or "", end="", flush=True)
            audio = getattr(choice.delta, "audio", None) or {}
            if "sample_rate" in audio:
                print(f"\n{audio['sample_rate']} Hz, mono")
            file.write(base64.b64decode(audio.get("data", "")))
