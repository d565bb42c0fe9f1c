"""Transcribe the clip named on the command line, or the spoken question in the box."""

import os
import sys
from pathlib import Path

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:9000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)

QUESTION = Path(__file__).parent.parent / "sglang_speechlm" / "demo" / "question.wav"
clip = Path(sys.argv[1]) if len(sys.argv) > 1 else QUESTION
print(client.audio.transcriptions.create(model="speechlm", file=clip).text)
