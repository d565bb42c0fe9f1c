"""POST /v1/audio/speech: exactly the given text, spoken, in every format and in every way of sending it."""

import base64
import io
import json
from collections.abc import Iterator
from typing import Any

import av
import httpx
import numpy as np
import openai
import pytest
import soundfile
import soxr
from server import SECONDS, Client, Server, assert_same_sound, message_of, samples_of, wait_for

from sglang_speechlm.codec.tempo import Tempo

ROUTE = "/v1/audio/speech"
RATE = 16_000
"""The codec's own, at which sounds are compared: resampling would spread the rounding of one sample to others."""
INPUT = "One, two! Three."
GREEDY = {"audio_temperature": 0.0, "audio_max_frames": 40}


def ask(**fields: Any) -> dict[str, Any]:
    return {"input": INPUT, "model": "speechlm", "voice": "alloy", "sample_rate": RATE, "speechlm": GREEDY, **fields}


def ours(**fields: Any) -> dict[str, Any]:
    return ask(speechlm=fields)


def spoken(client: Client, **fields: Any) -> httpx.Response:
    response = client.http.post(ROUTE, json=ask(**fields))
    assert response.status_code == 200, response.text
    assert response.headers["x-audio-sample-rate"] == str(fields.get("sample_rate", RATE))
    return response


def samples(data: bytes) -> np.ndarray:
    found, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate == RATE
    return found


def pcm(data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<i2")


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]


@pytest.fixture
def stock(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def whole(server: Server) -> np.ndarray:
    """The samples of the WAV file."""
    with Client(server.url) as client:
        return samples(spoken(client, response_format="wav").content)


LONG = {**GREEDY, "audio_min_frames": 160, "audio_max_frames": 160}
"""So long that more than one piece holds it, however late the decoder is."""


@pytest.fixture(scope="module")
def long(server: Server) -> bytes:
    """The WAV file of it."""
    with Client(server.url) as client:
        return spoken(client, response_format="wav", speechlm=LONG).content


def test_the_speech_is_what_a_chat_says_that_is_told_the_same(client: Client, whole: np.ndarray) -> None:
    chat = client.chat(
        {
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": f"Read this aloud. Slowly.\n\n{INPUT}"},
            ],
            "speechlm": {**GREEDY, "mode": "text_audio", "text": INPUT},
        }
    )
    slow = samples(spoken(client, response_format="wav", instructions="Slowly.").content)
    assert_same_sound(slow, samples_of(message_of(chat)))
    assert len(slow) == len(whole) == (40 - 7) * 320
    assert not np.array_equal(slow, whole)


@pytest.mark.parametrize(
    ("name", "media_type", "magic"),
    [("wav", "audio/wav", b"RIFF"), ("flac", "audio/flac", b"fLaC"), ("opus", "audio/ogg", b"OggS")],
)
def test_files(name: str, media_type: str, magic: bytes, client: Client, whole: np.ndarray) -> None:
    response = spoken(client, response_format=name)
    assert response.headers["content-type"] == media_type
    assert response.content.startswith(magic)
    if name == "opus":
        assert soundfile.info(io.BytesIO(response.content)).duration >= len(whole) / 16000 - 0.1
    else:
        assert_same_sound(samples(response.content), whole)


def test_the_stock_client_gets_an_mp3_file(stock: openai.OpenAI, whole: np.ndarray) -> None:
    response = stock.audio.speech.create(
        model="speechlm", voice="alloy", input=INPUT, instructions="Slowly.", extra_body={"speechlm": GREEDY}
    )
    assert response.response.headers["content-type"] == "audio/mpeg"
    assert len(samples(response.read())) >= len(whole)


def test_without_any_field_of_ours(stock: openai.OpenAI) -> None:
    response = stock.audio.speech.create(
        model="speechlm", voice="coral", input="Hello.", response_format="wav", speed=1.0
    )
    assert len(samples(response.read())) > 0


def test_pcm_comes_in_chunks_that_are_the_file(stock: openai.OpenAI, whole: np.ndarray) -> None:
    with stock.audio.speech.with_streaming_response.create(
        model="speechlm",
        voice="alloy",
        input=INPUT,
        response_format="pcm",
        extra_body={"speechlm": GREEDY, "sample_rate": RATE},
    ) as response:
        assert response.headers["content-type"] == "audio/pcm"
        assert "content-length" not in response.headers
        data = b"".join(response.iter_bytes())
    assert_same_sound(pcm(data), whole)


def test_a_wav_file_as_it_comes_has_the_same_samples(client: Client, whole: np.ndarray) -> None:
    response = spoken(client, response_format="wav", stream_format="audio")
    assert "content-length" not in response.headers
    assert_same_sound(samples(response.content), whole)


@pytest.mark.parametrize("name", ["pcm", "wav"])
def test_events_carry_the_file_in_pieces(name: str, client: Client, long: bytes) -> None:
    *deltas, done = events(spoken(client, response_format=name, stream_format="sse", speechlm=LONG))
    assert len(deltas) > 1
    assert {each["type"] for each in deltas} == {"speech.audio.delta"}
    data = b"".join(base64.b64decode(each["audio"]) for each in deltas)
    assert_same_sound(pcm(data) if name == "pcm" else samples(data), samples(long))
    assert done["type"] == "speech.audio.done"
    usage = done["usage"]
    assert usage["output_tokens"] == 160
    assert usage["total_tokens"] == usage["input_tokens"] + 160


def test_events_carry_a_flac_file_in_one_piece(client: Client, whole: np.ndarray) -> None:
    delta, done = events(spoken(client, response_format="flac", stream_format="sse"))
    assert_same_sound(samples(base64.b64decode(delta["audio"])), whole)
    assert done["type"] == "speech.audio.done"


@pytest.mark.parametrize("name", ["mp3", "opus", "aac"])
def test_compressed_files_come_in_pieces_that_hold_the_sound(name: str, client: Client, long: bytes) -> None:
    expected = seconds_of(long)
    *deltas, done = events(spoken(client, response_format=name, stream_format="sse", speechlm=LONG))
    assert len(deltas) > 1
    pieces = b"".join(base64.b64decode(each["audio"]) for each in deltas)
    # The delay of an encoder, which a file that is not written as a whole cannot state, is heard as silence.
    assert seconds_of(pieces) == pytest.approx(expected, abs=0.2)
    assert done["usage"]["output_tokens"] == 160
    direct = spoken(client, response_format=name, stream_format="audio", speechlm=LONG)
    assert seconds_of(direct.content) == pytest.approx(expected, abs=0.2)


def seconds_of(file: bytes) -> float:
    """Length of a file's decoded sound."""
    with av.open(io.BytesIO(file)) as opened:
        return sum(frame.samples / frame.sample_rate for frame in opened.decode(audio=0))


def test_a_long_text_is_sent_while_it_is_spoken(client: Client) -> None:
    """A client that waits for an mp3 file, the default, would reach its timeout during minutes of sound."""
    frames = {"audio_min_frames": 2000, "audio_max_frames": 2000}
    with client.http.stream("POST", ROUTE, json=ask(input=SENTENCE * 20, speechlm=frames)) as response:
        assert response.headers["content-type"] == "audio/mpeg"
        pieces = response.iter_bytes()  # closed with its response as soon as nothing refers to it
        assert next(pieces)
        assert client.metrics()["speechlm_stages_running", ()] == 1
    assert wait_for(lambda: not client.metrics()["speechlm_stages_running", ()])


def test_the_stock_client_reads_the_events(stock: openai.OpenAI) -> None:
    with stock.audio.speech.with_streaming_response.create(
        model="speechlm", voice="alloy", input=INPUT, response_format="pcm", stream_format="sse",
        extra_body={"speechlm": GREEDY},
    ) as response:  # fmt: skip
        lines = [line for line in response.iter_lines() if line]
    assert all(json.loads(line.removeprefix("data: "))["type"].startswith("speech.audio.") for line in lines)


def test_a_seed_repeats_the_speech_and_guidance_changes_it(client: Client) -> None:
    def say(**fields: Any) -> bytes:
        return spoken(client, response_format="pcm", speechlm={"audio_max_frames": 30, **fields}).content

    assert say(seed=7) == say(seed=7)
    assert say(seed=7) != say(seed=8)
    assert say(seed=7, cfg=3.0) != say(seed=7)
    assert (
        say(seed=7, cfg=3.0)
        == spoken(
            client, response_format="pcm", vllm_xargs={"cfg": 3.0}, speechlm={"audio_max_frames": 30, "seed": 7}
        ).content
    )


def test_the_top_level_fields_say_what_ours_say(client: Client) -> None:
    def say(**fields: Any) -> bytes:
        return spoken(client, **{"response_format": "pcm", "speechlm": None, "max_tokens": 30, **fields}).content

    assert say(seed=7) == say(speechlm={"seed": 7})
    assert say(seed=7) != say(seed=8)
    assert say(temperature=0) == say(speechlm={"audio_temperature": 0.0}) == say(temperature=0, seed=9)
    assert say(top_k=1, seed=3) == say(speechlm={"audio_topk": 1, "seed": 3})
    assert say(temperature=0, max_tokens=20) == say(temperature=0, max_completion_tokens=20)
    assert len(pcm(say(temperature=0, max_tokens=20))) == (20 - 7) * 320


def test_raw_sound_has_openais_rate_and_files_the_codecs(client: Client, whole: np.ndarray) -> None:
    def say(**fields: Any) -> httpx.Response:
        body = {name: value for name, value in ask(**fields).items() if name != "sample_rate"}
        return client.http.post(ROUTE, json=body)

    raw, file = say(response_format="pcm"), say(response_format="wav")
    assert [each.headers["x-audio-sample-rate"] for each in (raw, file)] == ["24000", "16000"]
    np.testing.assert_allclose(
        pcm(raw.content) / 32768, soxr.resample(whole / 32768, RATE, 24_000), rtol=0, atol=4 / 32768
    )
    assert_same_sound(samples(file.content), whole)
    assert len(pcm(say(input="...", response_format="pcm").content)) == 6_000  # a quarter of a second


@pytest.mark.parametrize("fields", [{"response_format": "wav"}, {"response_format": "pcm", "sample_rate": RATE}])
def test_another_speed_is_the_same_speech_stretched(fields: dict[str, Any], client: Client, whole: np.ndarray) -> None:
    answer = spoken(client, **fields, speed=0.8).content
    tempo = Tempo(RATE, 0.8)
    expected = np.concatenate([tempo.push((whole / 32768).astype(np.float32)), tempo.flush()])
    given = samples(answer) if answer.startswith(b"RIFF") else pcm(answer)
    np.testing.assert_allclose(given / 32768, expected, rtol=0, atol=8 / 32768)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000.0])
@pytest.mark.parametrize("name", ["pcm", "wav", "flac", "mp3"])
def test_any_format_comes_at_the_asked_rate(name: str, rate: float, client: Client, whole: np.ndarray) -> None:
    response = client.http.post(ROUTE, json=ask(response_format=name, sample_rate=rate))
    assert response.headers["x-audio-sample-rate"] == str(int(rate))
    if name == "pcm":
        seconds = len(pcm(response.content)) / rate
    else:
        info = soundfile.info(io.BytesIO(response.content))
        assert info.samplerate == rate
        seconds = info.duration
    # An MP3 file consists of whole frames, of 72 ms at 8,000 Hz, and begins with one or two of silence.
    assert seconds == pytest.approx(len(whole) / RATE, abs=0.25 if name == "mp3" else 0.1)


@pytest.mark.parametrize(
    ("name", "rate"), [("pcm", 7_999), ("wav", 48_001), ("pcm", "24000"), ("opus", 44_100), ("mp3", 9_000)]
)
def test_a_rate_that_cannot_be_had_is_refused(name: str, rate: Any, client: Client) -> None:
    error = refused(client.http.post(ROUTE, json=ask(response_format=name, sample_rate=rate)))
    assert error["param"] == "sample_rate"
    assert "8000" in error["message"] or rate == "24000"


def warned(response: httpx.Response) -> list[str]:
    found: list[str] = json.loads(response.headers.get("x-speechlm-warnings", "[]"))
    return found


def test_what_cuts_the_sound_is_told(client: Client) -> None:
    endless = {"audio_min_frames": 60}
    assert "max_tokens (20 frames)" in warned(spoken(client, max_tokens=20, speechlm=endless))[0]
    assert "audio_max_frames" in warned(spoken(client, speechlm={"audio_max_frames": 20, "audio_min_frames": 20}))[0]
    *_, done = events(spoken(client, response_format="pcm", stream_format="sse", max_tokens=20, speechlm=endless))
    assert "max_tokens" in done["speechlm"]["warnings"][0]
    assert warned(spoken(client, temperature=0, speechlm=None)) == []


def test_a_field_that_shapes_text_alone_is_told(client: Client) -> None:
    told = warned(spoken(client, top_p=0.5, stop="two"))
    assert [text.partition(":")[0] for text in told[:2]] == ["top_p", "stop"]


@pytest.mark.parametrize("text", ["...", "?!", "🙂", " — "])
def test_punctuation_alone_is_a_short_silence_and_told(text: str, client: Client) -> None:
    response = spoken(client, input=text, response_format="wav")
    sound = samples(response.content)
    assert 0 < len(sound) <= 16000
    assert not sound.any()
    assert warned(response)[0].startswith("input: ")
    *_, done = events(spoken(client, input=text, response_format="pcm", stream_format="sse"))
    assert done["usage"]["output_tokens"] == 0


@pytest.mark.parametrize("text", ["7", "字", "e\u0301", "€"])
def test_one_character_that_is_speakable_is_said(text: str, client: Client) -> None:
    response = spoken(client, input=text, response_format="wav")
    assert samples(response.content).any()


SENTENCE = "The green bird sits near the bridge and sings. "


def test_a_long_text_is_one_sound_of_its_passages(client: Client) -> None:
    """Each passage has the seed that follows, and a fade of 5 ms at either end."""
    text, settings = SENTENCE * 9, {"seed": 7, "audio_min_frames": 30}
    first, second = (text[: 8 * len(SENTENCE)].strip(), SENTENCE.strip())
    sound = samples(spoken(client, input=text, response_format="wav", speechlm=settings).content)
    parts = [
        samples(spoken(client, input=part, response_format="wav", speechlm={**settings, "seed": 7 + i}).content)
        for i, part in enumerate((first, second))
    ]
    edge = round(0.005 * RATE)
    assert len(sound) == sum(map(len, parts))
    at = 0
    for part in parts:
        assert_same_sound(sound[at : at + len(part)][edge:-edge], part[edge:-edge])
        assert sound[at] == sound[at + len(part) - 1] == 0
        at += len(part)


def test_a_long_text_is_streamed_as_it_is_whole(client: Client) -> None:
    body = {"input": SENTENCE * 20, "speechlm": {"seed": 3, "audio_min_frames": 20, "audio_max_frames": 90}}
    whole = samples(spoken(client, response_format="wav", **body).content)
    *deltas, done = events(spoken(client, response_format="pcm", stream_format="sse", **body))
    assert_same_sound(pcm(b"".join(base64.b64decode(each["audio"]) for each in deltas)), whole)
    assert done["usage"]["output_tokens"] == 90
    assert "audio_max_frames (90 frames)" in done["speechlm"]["warnings"][0]


def test_a_budget_is_one_for_all_passages(client: Client) -> None:
    body = {"input": SENTENCE * 20, "max_tokens": 50, "speechlm": {"audio_min_frames": 20}}
    response = spoken(client, response_format="wav", **body)
    assert 0 < len(samples(response.content)) <= 50 * 320
    assert "max_tokens (50 frames)" in warned(response)[0]


def test_too_many_passages_are_refused(client: Client) -> None:
    error = refused(client.http.post(ROUTE, json=ask(input="word " * 90_000)))
    assert error["param"] == "input"
    assert "passages" in error["message"]


def test_a_voice_is_listed_as_applications_ask(client: Client) -> None:
    listed = client.http.get("/v1/audio/voices").json()
    assert [(voice["id"], voice["name"]) for voice in listed["voices"]] == [("default", "default")]
    assert warned(spoken(client, voice="default", speechlm={**GREEDY, "audio_max_frames": None})) == []


@pytest.mark.parametrize("blank", [" ", "\n", "\u200b"])
def test_blank_instructions_are_none(blank: str, client: Client, whole: np.ndarray) -> None:
    assert_same_sound(samples(spoken(client, response_format="wav", instructions=blank).content), whole)


@pytest.mark.parametrize("text", [" ", "...", "🙂", "\u200b"])
def test_a_given_text_that_cannot_be_said_is_refused(text: str, client: Client) -> None:
    body = {"messages": [{"role": "user", "content": "Say it."}], "speechlm": {"mode": "text_audio", "text": text}}
    assert refused(client.http.post("/v1/chat/completions", json=body))["param"] == "speechlm.text"


def test_a_client_that_leaves_frees_everything(client: Client) -> None:
    endless = ask(response_format="pcm", speechlm={"audio_min_frames": 6000})
    with client.http.stream("POST", ROUTE, json=endless) as response:
        pieces = response.iter_bytes()  # which closes the connection when it is given up
        assert next(pieces)
        assert client.metrics()["speechlm_stages_running", ()] == 1
        assert wait_for(lambda: client.metrics()["speechlm_codec_slots", ()] == 1)
    assert wait_for(lambda: not client.metrics()["speechlm_codec_slots", ()])
    assert wait_for(lambda: not client.metrics()["speechlm_stages_running", ()])
    assert wait_for(lambda: client.load()["num_running_reqs"] == 0)


BAD: list[tuple[str, dict[str, Any]]] = [
    ("input", {"model": "speechlm", "voice": "alloy"}),
    ("input", ask(input="")),
    ("input", ask(input=None)),
    ("input", ask(input=5)),
    ("input", ask(input=["Hello."])),
    ("input", ask(input="  ")),
    ("input", ask(input="\n\t")),
    ("input", ask(input="\u200b\ufeff")),
    ("input", ask(input="\u0301")),
    ("seed", ask(seed="7")),
    ("temperature", ask(temperature=3)),
    ("max_tokens", ask(max_tokens=0)),
    ("top_k", ask(top_k=-2)),
    ("input", ask(input="word " * 90_000)),
    ("model", ask(model=5)),
    ("instructions", ask(instructions=["slowly"])),
    ("instructions", ask(instructions="slowly " * 20_000)),
    ("response_format", ask(response_format="midi")),
    ("response_format", ask(response_format="pcm16")),
    ("response_format", ask(response_format=5)),
    ("speed", ask(speed=4.1)),
    ("speed", ask(speed=0.2)),
    ("speed", ask(speed="1.0")),
    ("speed", ask(speed=True)),
    ("stream_format", ask(stream_format="chunks")),
    ("stream_format", ask(stream_format=True)),
    ("speechlm", ask(speechlm="loud")),
    ("speechlm.volume", ours(volume=3)),
    ("speechlm.cfg", ours(cfg=0.5)),
    ("speechlm.cfg", ours(cfg=21)),
    ("speechlm.cfg", ours(cfg="3")),
    ("speechlm.audio_temperature", ours(audio_temperature=2.5)),
    ("speechlm.audio_topk", ours(audio_topk=0)),
    ("speechlm.audio_min_frames", ours(audio_min_frames=9, audio_max_frames=8)),
    ("speechlm.audio_max_frames", ours(audio_max_frames=0)),
    ("audio_max_frames", ours(audio_max_frames=5)),
    ("speechlm.seed", ours(seed=2**63)),
    ("speechlm.mode", ours(mode="text")),
    ("speechlm.text", ours(text="Something else.")),
    ("speechlm.return_ids", ours(return_ids=True)),
    ("vllm_xargs.colour", ask(vllm_xargs={"colour": "red"})),
    ("vllm_xargs.phase", ask(vllm_xargs={"phase": "audio"})),
]


def refused(response: httpx.Response, status: int = 400) -> dict[str, Any]:
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(("field", "body"), BAD, ids=[f"{i}-{field}" for i, (field, _) in enumerate(BAD)])
@pytest.mark.parametrize("stream_format", [None, "sse"])
def test_a_bad_field_is_named(field: str, body: dict[str, Any], stream_format: str | None, client: Client) -> None:
    error = refused(client.http.post(ROUTE, json={"stream_format": stream_format, **body}, timeout=SECONDS))
    assert field in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"input": "\xff"}', b'{"input": "\\ud800"}', b"input=x"])
def test_a_bad_body_is_refused(body: bytes, client: Client) -> None:
    refused(client.http.post(ROUTE, content=body, headers={"Content-Type": "application/json"}, timeout=SECONDS))


def test_other_refusals(client: Client) -> None:
    refused(client.http.post(ROUTE, json=ask(model="tts-unknown")), 404)
    refused(client.http.post(ROUTE, data={"input": "Hello."}), 415)
    refused(client.http.get(ROUTE), 405)


def test_aac_is_a_stream_of_adts_frames(client: Client) -> None:
    response = spoken(client, response_format="aac")
    assert response.headers["content-type"] == "audio/aac"
    assert response.content[0] == 0xFF
    assert response.content[1] & 0xF6 == 0xF0


def test_the_server_still_speaks_after_all_this(client: Client) -> None:
    assert spoken(client, response_format="wav").content
