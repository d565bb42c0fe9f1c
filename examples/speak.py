"""Ask a question, print the answer and save its sound as answer.wav."""

import base64
import os
from pathlib import Path

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:9000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)

completion = client.chat.completions.create(
    model="speechlm",
    messages=[{"role": "user", "content": "What is the capital of France?"}],
    modalities=["text", "audio"],
    audio={"voice": "alloy", "format": "wav"},
    max_tokens=1000,
)
message = completion.choices[0].message
print(message.content)
if message.audio is None:
    print("no sound:", completion.choices[0].finish_reason)
else:
    Path("answer.wav").write_bytes(base64.b64decode(message.audio.data))
