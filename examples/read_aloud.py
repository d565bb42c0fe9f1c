"""Read a text aloud with guidance, and write the file as it arrives."""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:9000/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)

with client.audio.speech.with_streaming_response.create(
    model="speechlm",
    voice="alloy",
    input="The green bird sits near the bridge.",
    response_format="wav",
    extra_body={"speechlm": {"cfg": 1.5, "seed": 1}},
) as response:
    response.stream_to_file("speech.wav")
    print("speech.wav:", response.headers["x-audio-sample-rate"], "Hz")
