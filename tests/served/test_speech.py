"""POST /v1/audio/speech: speaks exactly the given text, in every format, complete and streamed."""

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import Any

import av
import httpx
import numpy as np
import openai
import pytest
import soundfile
import soxr
from server import SECONDS, Client, Server, assert_same_sound, message_of, refused, samples_of, wait_for
from server.stock import openai_client

from sglang_speechlm.codec.tempo import Tempo

ROUTE = "/v1/audio/speech"
RATE = 16_000
"""The codec's own rate, for comparisons: resampling would spread the rounding of one sample to others."""
INPUT = "One, two! Three."
FRAMES = 20
GREEDY = {"audio_temperature": 0.0, "audio_min_frames": FRAMES, "audio_max_frames": FRAMES}


def speech_body(**fields: Any) -> dict[str, Any]:
    return {"input": INPUT, "model": "speechlm", "voice": "alloy", "sample_rate": RATE, "speechlm": GREEDY, **fields}


def with_speechlm(**fields: Any) -> dict[str, Any]:
    return speech_body(speechlm=fields)


def speak(client: Client, **fields: Any) -> httpx.Response:
    response = client.http.post(ROUTE, json=speech_body(**fields))
    assert response.status_code == 200, response.text
    assert response.headers["x-audio-sample-rate"] == str(int(fields.get("sample_rate", RATE)))
    return response


def speak_at_once(client: Client, *requests: dict[str, Any]) -> list[httpx.Response]:
    with ThreadPoolExecutor() as threads:
        return list(threads.map(lambda fields: speak(client, **fields), requests))


def samples(data: bytes) -> np.ndarray:
    found, rate = soundfile.read(io.BytesIO(data), dtype="int16")
    assert rate == RATE
    return found


def pcm(data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<i2")


def events(response: httpx.Response) -> list[dict[str, Any]]:
    assert response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]


@pytest.fixture(scope="module")
def stock(server: Server) -> Iterator[openai.OpenAI]:
    with openai_client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def whole(server: Server) -> np.ndarray:
    """Return the samples of the speech as a WAV file."""
    with Client(server.url) as client:
        return samples(speak(client, response_format="wav").content)


LONG = {**GREEDY, "audio_min_frames": 160, "audio_max_frames": 160}
"""Long enough for more than one piece, however late the decoder is."""


COMPRESSED = ("mp3", "opus", "aac")


@pytest.fixture(scope="module")
def long(server: Server) -> dict[tuple[str, str | None], httpx.Response]:
    """Return a long speech, generated at once in all streamed formats, by the format and ``stream_format``."""
    kinds: list[tuple[str, str | None]] = [("wav", None), *product(("wav", "pcm", *COMPRESSED), ("sse",))]
    kinds += product(COMPRESSED, ("audio",))
    bodies = [{"response_format": name, "stream_format": stream, "speechlm": LONG} for name, stream in kinds]
    with Client(server.url) as client:
        return dict(zip(kinds, speak_at_once(client, *bodies), strict=True))


def test_speech_equals_a_chat_answer_to_the_same_prompt(client: Client, whole: np.ndarray) -> None:
    chat = client.chat(
        {
            "messages": [
                {"role": "system", "content": "You are a helpful assistant."},
                {"role": "user", "content": f"Read this aloud. Slowly.\n\n{INPUT}"},
            ],
            "speechlm": {**GREEDY, "mode": "text_audio", "text": INPUT},
        }
    )
    slow = samples(speak(client, response_format="wav", instructions="Slowly.").content)
    assert_same_sound(slow, samples_of(message_of(chat)))
    assert len(slow) == len(whole) == (FRAMES - 7) * 320
    assert not np.array_equal(slow, whole)


@pytest.mark.parametrize(
    ("name", "media_type", "magic"),
    [("wav", "audio/wav", b"RIFF"), ("flac", "audio/flac", b"fLaC"), ("opus", "audio/ogg", b"OggS")],
)
def test_a_file_has_the_requested_format(
    name: str, media_type: str, magic: bytes, client: Client, whole: np.ndarray
) -> None:
    response = speak(client, response_format=name)
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


def test_the_stock_client_needs_no_extension_fields(stock: openai.OpenAI) -> None:
    response = stock.audio.speech.create(
        model="speechlm", voice="coral", input="Hello.", response_format="wav", speed=1.0
    )
    assert len(samples(response.read())) > 0


def test_streamed_pcm_equals_the_file(stock: openai.OpenAI, whole: np.ndarray) -> None:
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


def test_a_streamed_wav_file_has_the_same_samples(client: Client, whole: np.ndarray) -> None:
    response = speak(client, response_format="wav", stream_format="audio")
    assert "content-length" not in response.headers
    assert_same_sound(samples(response.content), whole)


@pytest.mark.parametrize("name", ["pcm", "wav"])
def test_events_contain_the_file_in_pieces(name: str, long: dict[tuple[str, str | None], httpx.Response]) -> None:
    *deltas, done = events(long[name, "sse"])
    assert len(deltas) > 1
    assert {delta["type"] for delta in deltas} == {"speech.audio.delta"}
    data = b"".join(base64.b64decode(delta["audio"]) for delta in deltas)
    assert_same_sound(pcm(data) if name == "pcm" else samples(data), samples(long["wav", None].content))
    assert done["type"] == "speech.audio.done"
    usage = done["usage"]
    assert usage["output_tokens"] == 160
    assert usage["total_tokens"] == usage["input_tokens"] + 160


def test_events_contain_a_flac_file_in_one_piece(client: Client, whole: np.ndarray) -> None:
    delta, done = events(speak(client, response_format="flac", stream_format="sse"))
    assert_same_sound(samples(base64.b64decode(delta["audio"])), whole)
    assert done["type"] == "speech.audio.done"


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed_files_are_streamed_in_pieces(name: str, long: dict[tuple[str, str | None], httpx.Response]) -> None:
    expected = seconds_of(long["wav", None].content)
    *deltas, done = events(long[name, "sse"])
    assert len(deltas) > 1
    pieces = b"".join(base64.b64decode(delta["audio"]) for delta in deltas)
    # A streamed file cannot declare the delay of its encoder, which is therefore heard as silence.
    assert seconds_of(pieces) == pytest.approx(expected, abs=0.2)
    assert done["usage"]["output_tokens"] == 160
    assert seconds_of(long[name, "audio"].content) == pytest.approx(expected, abs=0.2)


def seconds_of(file: bytes) -> float:
    """Return the duration of a file's decoded sound."""
    with av.open(io.BytesIO(file)) as opened:
        return sum(frame.samples / frame.sample_rate for frame in opened.decode(audio=0))


def test_a_long_text_is_sent_while_it_is_generated(client: Client) -> None:
    """A client that waits for a complete mp3 file, the default format, would time out during minutes of sound."""
    frames = {"audio_min_frames": 2000, "audio_max_frames": 2000}
    with client.http.stream("POST", ROUTE, json=speech_body(input=SENTENCE * 20, speechlm=frames)) as response:
        assert response.headers["content-type"] == "audio/mpeg"
        pieces = response.iter_bytes()  # keep a reference: without one, the response is closed
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


def same(found: np.ndarray, expected: np.ndarray) -> bool:
    """Return whether two sounds are the same but for rounding, which depends on what is decoded together."""
    return len(found) == len(expected) and bool((abs(found.astype(int) - expected) <= 1).all())


def test_a_seed_repeats_the_speech_and_guidance_changes_it(client: Client) -> None:
    frames = {"audio_max_frames": FRAMES}
    settings: list[dict[str, Any]] = [{"seed": 7}, {"seed": 7}, {"seed": 8}, {"seed": 7, "cfg": 3.0}]
    bodies: list[dict[str, Any]] = [{"speechlm": {**frames, **setting}} for setting in settings]
    bodies.append({"speechlm": {**frames, "seed": 7}, "vllm_xargs": {"cfg": 3.0}})
    answers = speak_at_once(client, *({"response_format": "pcm", **body} for body in bodies))
    first, again, other, guided, by_xargs = (pcm(answer.content) for answer in answers)
    assert same(first, again)
    assert not same(first, other)
    assert not same(first, guided)
    assert same(guided, by_xargs)


def test_top_level_fields_equal_the_speechlm_fields(client: Client) -> None:
    few = {"temperature": 0, "max_tokens": 12}
    groups: list[list[dict[str, Any]]] = [
        [{"seed": 7}, {"speechlm": {"seed": 7}}],
        [{"seed": 8}],
        [{"temperature": 0}, {"speechlm": {"audio_temperature": 0.0}}, {"temperature": 0, "seed": 9}],
        [{"top_k": 1, "seed": 3}, {"speechlm": {"audio_topk": 1, "seed": 3}}],
        [few, {"temperature": 0, "max_tokens": None, "max_completion_tokens": 12}],
    ]
    default = {"response_format": "pcm", "speechlm": None, "max_tokens": FRAMES}
    bodies = [{**default, **fields} for group in groups for fields in group]
    sounds = iter([pcm(answer.content) for answer in speak_at_once(client, *bodies)])
    firsts = []
    for group in groups:
        first, *others = [next(sounds) for _ in group]
        assert all(same(other, first) for other in others), group
        firsts.append(first)
    assert not same(firsts[0], firsts[1])
    assert len(firsts[-1]) == (12 - 7) * 320


def test_raw_sound_has_openais_sample_rate_and_files_the_codecs(client: Client, whole: np.ndarray) -> None:
    def speech(**fields: Any) -> httpx.Response:
        body = {name: value for name, value in speech_body(**fields).items() if name != "sample_rate"}
        return client.http.post(ROUTE, json=body)

    raw, file = speech(response_format="pcm"), speech(response_format="wav")
    assert [response.headers["x-audio-sample-rate"] for response in (raw, file)] == ["24000", "16000"]
    np.testing.assert_allclose(
        pcm(raw.content) / 32768, soxr.resample(whole / 32768, RATE, 24_000), rtol=0, atol=4 / 32768
    )
    assert_same_sound(samples(file.content), whole)
    assert len(pcm(speech(input="...", response_format="pcm").content)) == 6_000  # a quarter of a second


@pytest.mark.parametrize("fields", [{"response_format": "wav"}, {"response_format": "pcm", "sample_rate": RATE}])
def test_another_speed_stretches_the_same_speech(fields: dict[str, Any], client: Client, whole: np.ndarray) -> None:
    answer = speak(client, **fields, speed=0.8).content
    tempo = Tempo(RATE, 0.8)
    expected = np.concatenate([tempo.push((whole / 32768).astype(np.float32)), tempo.flush()])
    given = samples(answer) if answer.startswith(b"RIFF") else pcm(answer)
    np.testing.assert_allclose(given / 32768, expected, rtol=0, atol=8 / 32768)


RATES = list(product(("pcm", "wav", "flac", "mp3"), (8_000, 44_100, 48_000.0)))


@pytest.fixture(scope="module")
def at_rates(server: Server) -> dict[tuple[str, float], httpx.Response]:
    """Return the speech in every format at several sample rates."""
    bodies = [{"response_format": name, "sample_rate": rate} for name, rate in RATES]
    with Client(server.url) as client:
        return dict(zip(RATES, speak_at_once(client, *bodies), strict=True))


@pytest.mark.parametrize(("name", "rate"), RATES)
def test_every_format_has_the_requested_sample_rate(
    name: str, rate: float, at_rates: dict[tuple[str, float], httpx.Response], whole: np.ndarray
) -> None:
    response = at_rates[name, rate]
    if name == "pcm":
        seconds = len(pcm(response.content)) / rate
    else:
        info = soundfile.info(io.BytesIO(response.content))
        assert info.samplerate == rate
        seconds = info.duration
    # An MP3 file consists of whole frames, 72 ms each at 8,000 Hz, and starts with one or two of silence.
    assert seconds == pytest.approx(len(whole) / RATE, abs=0.25 if name == "mp3" else 0.1)


@pytest.mark.parametrize(
    ("name", "rate"), [("pcm", 7_999), ("wav", 48_001), ("pcm", "24000"), ("opus", 44_100), ("mp3", 9_000)]
)
def test_an_unsupported_sample_rate_is_refused(name: str, rate: Any, client: Client) -> None:
    error = refused(client.http.post(ROUTE, json=speech_body(response_format=name, sample_rate=rate)))
    assert error["param"] == "sample_rate"
    assert "8000" in error["message"] or rate == "24000"


def warnings_of(response: httpx.Response) -> list[str]:
    found: list[str] = json.loads(response.headers.get("x-speechlm-warnings", "[]"))
    return found


def test_a_limit_that_cuts_the_sound_is_in_the_warnings(client: Client) -> None:
    endless = {"audio_min_frames": 60}
    by_tokens, by_frames, streamed, unlimited = speak_at_once(
        client,
        {"max_tokens": 20, "speechlm": endless},
        {"speechlm": {"audio_max_frames": 20, "audio_min_frames": 20}},
        {"response_format": "pcm", "stream_format": "sse", "max_tokens": 20, "speechlm": endless},
        {"temperature": 0, "speechlm": None},
    )
    assert "max_tokens (20 frames)" in warnings_of(by_tokens)[0]
    assert "audio_max_frames" in warnings_of(by_frames)[0]
    assert "max_tokens" in events(streamed)[-1]["speechlm"]["warnings"][0]
    assert warnings_of(unlimited) == []


def test_a_field_that_affects_only_text_is_in_the_warnings(client: Client) -> None:
    messages = warnings_of(speak(client, top_p=0.5, stop="two"))
    assert [text.partition(":")[0] for text in messages[:2]] == ["top_p", "stop"]


@pytest.mark.parametrize("text", ["...", "?!", "🙂", " — "])
def test_punctuation_alone_is_a_short_silence_with_a_warning(text: str, client: Client) -> None:
    response = speak(client, input=text, response_format="wav")
    sound = samples(response.content)
    assert 0 < len(sound) <= 16000
    assert not sound.any()
    assert warnings_of(response)[0].startswith("input: ")
    *_, done = events(speak(client, input=text, response_format="pcm", stream_format="sse"))
    assert done["usage"]["output_tokens"] == 0


@pytest.mark.parametrize("text", ["7", "字", "e\u0301", "€"])
def test_a_single_speakable_character_is_spoken(text: str, client: Client) -> None:
    response = speak(client, input=text, response_format="wav")
    assert samples(response.content).any()


SENTENCE = "The green bird sits near the bridge and sings. "


def test_a_long_text_is_the_sound_of_its_passages_joined(client: Client) -> None:
    """Each passage has the next seed, and a fade of 5 ms at both ends."""
    text, settings = SENTENCE * 9, {"seed": 7, "audio_min_frames": 30}
    first, second = (text[: 8 * len(SENTENCE)].strip(), SENTENCE.strip())
    bodies = [
        {"input": part, "response_format": "wav", "speechlm": {**settings, "seed": seed}}
        for part, seed in ((text, 7), (first, 7), (second, 8))
    ]
    sound, *parts = (samples(response.content) for response in speak_at_once(client, *bodies))
    edge = round(0.005 * RATE)
    assert len(sound) == sum(map(len, parts))
    at = 0
    for part in parts:
        assert_same_sound(sound[at : at + len(part)][edge:-edge], part[edge:-edge])
        assert sound[at] == sound[at + len(part) - 1] == 0
        at += len(part)


def test_a_long_text_sounds_the_same_streamed_and_complete(client: Client) -> None:
    body = {"input": SENTENCE * 20, "speechlm": {"seed": 3, "audio_min_frames": 20, "audio_max_frames": 90}}
    complete, streamed = speak_at_once(
        client, {**body, "response_format": "wav"}, {**body, "response_format": "pcm", "stream_format": "sse"}
    )
    whole = samples(complete.content)
    *deltas, done = events(streamed)
    assert_same_sound(pcm(b"".join(base64.b64decode(delta["audio"]) for delta in deltas)), whole)
    assert done["usage"]["output_tokens"] == 90
    assert "audio_max_frames (90 frames)" in done["speechlm"]["warnings"][0]


def test_max_tokens_limits_all_passages_together(client: Client) -> None:
    body = {"input": SENTENCE * 20, "max_tokens": 50, "speechlm": {"audio_min_frames": 20}}
    response = speak(client, response_format="wav", **body)
    assert 0 < len(samples(response.content)) <= 50 * 320
    assert "max_tokens (50 frames)" in warnings_of(response)[0]


def test_too_many_passages_are_refused(client: Client) -> None:
    error = refused(client.http.post(ROUTE, json=speech_body(input="word " * 90_000)))
    assert error["param"] == "input"
    assert "passages" in error["message"]


def test_the_voices_are_listed_as_applications_expect(client: Client) -> None:
    listed = client.http.get("/v1/audio/voices").json()
    assert [(voice["id"], voice["name"]) for voice in listed["voices"]] == [("default", "default")]
    assert warnings_of(speak(client, voice="default", temperature=0, speechlm=None)) == []


@pytest.mark.parametrize("blank", [" ", "\n", "\u200b"])
def test_blank_instructions_are_ignored(blank: str, client: Client, whole: np.ndarray) -> None:
    assert_same_sound(samples(speak(client, response_format="wav", instructions=blank).content), whole)


@pytest.mark.parametrize("text", [" ", "...", "🙂", "\u200b"])
def test_a_given_text_that_cannot_be_spoken_is_refused(text: str, client: Client) -> None:
    body = {"messages": [{"role": "user", "content": "Say it."}], "speechlm": {"mode": "text_audio", "text": text}}
    assert refused(client.http.post("/v1/chat/completions", json=body))["param"] == "speechlm.text"


def test_a_disconnected_client_frees_its_resources(client: Client) -> None:
    endless = speech_body(response_format="pcm", speechlm={"audio_min_frames": 6000})
    with client.http.stream("POST", ROUTE, json=endless) as response:
        pieces = response.iter_bytes()  # keep a reference: without one, the connection is closed
        assert next(pieces)
        assert client.metrics()["speechlm_stages_running", ()] == 1
        assert wait_for(lambda: client.metrics()["speechlm_codec_slots", ()] == 1)
    assert wait_for(lambda: not client.metrics()["speechlm_codec_slots", ()])
    assert wait_for(lambda: not client.metrics()["speechlm_stages_running", ()])
    assert wait_for(lambda: client.load()["num_running_reqs"] == 0)


BAD: list[tuple[str, dict[str, Any]]] = [
    ("input", {"model": "speechlm", "voice": "alloy"}),
    ("input", speech_body(input="")),
    ("input", speech_body(input=None)),
    ("input", speech_body(input=5)),
    ("input", speech_body(input=["Hello."])),
    ("input", speech_body(input="  ")),
    ("input", speech_body(input="\n\t")),
    ("input", speech_body(input="\u200b\ufeff")),
    ("input", speech_body(input="\u0301")),
    ("seed", speech_body(seed="7")),
    ("temperature", speech_body(temperature=3)),
    ("max_tokens", speech_body(max_tokens=0)),
    ("top_k", speech_body(top_k=-2)),
    ("input", speech_body(input="word " * 90_000)),
    ("model", speech_body(model=5)),
    ("voice", speech_body(voice=5)),
    ("voice", speech_body(voice=["alloy"])),
    ("voice.id", speech_body(voice={"name": "alloy"})),
    ("instructions", speech_body(instructions=["slowly"])),
    ("instructions", speech_body(instructions="slowly " * 20_000)),
    ("response_format", speech_body(response_format="midi")),
    ("response_format", speech_body(response_format="pcm16")),
    ("response_format", speech_body(response_format=5)),
    ("speed", speech_body(speed=4.1)),
    ("speed", speech_body(speed=0.2)),
    ("speed", speech_body(speed="1.0")),
    ("speed", speech_body(speed=True)),
    ("stream_format", speech_body(stream_format="chunks")),
    ("stream_format", speech_body(stream_format=True)),
    ("speechlm", speech_body(speechlm="loud")),
    ("speechlm.volume", with_speechlm(volume=3)),
    ("speechlm.cfg", with_speechlm(cfg=0.5)),
    ("speechlm.cfg", with_speechlm(cfg=21)),
    ("speechlm.cfg", with_speechlm(cfg="3")),
    ("speechlm.audio_temperature", with_speechlm(audio_temperature=2.5)),
    ("speechlm.audio_topk", with_speechlm(audio_topk=0)),
    ("speechlm.audio_min_frames", with_speechlm(audio_min_frames=9, audio_max_frames=8)),
    ("speechlm.audio_max_frames", with_speechlm(audio_max_frames=0)),
    ("audio_max_frames", with_speechlm(audio_max_frames=5)),
    ("speechlm.seed", with_speechlm(seed=2**63)),
    ("speechlm.mode", with_speechlm(mode="text")),
    ("speechlm.text", with_speechlm(text="Something else.")),
    ("speechlm.return_ids", with_speechlm(return_ids=True)),
    ("vllm_xargs.colour", speech_body(vllm_xargs={"colour": "red"})),
    ("vllm_xargs.phase", speech_body(vllm_xargs={"phase": "audio"})),
]


@pytest.mark.parametrize(("field", "body"), BAD, ids=[f"{i}-{field}" for i, (field, _) in enumerate(BAD)])
@pytest.mark.parametrize("stream_format", [None, "sse"])
def test_a_bad_field_is_named(field: str, body: dict[str, Any], stream_format: str | None, client: Client) -> None:
    error = refused(client.http.post(ROUTE, json={"stream_format": stream_format, **body}, timeout=SECONDS))
    assert field in error["message"]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"input": "\xff"}', b'{"input": "\\ud800"}', b"input=x"])
def test_a_bad_body_is_refused(body: bytes, client: Client) -> None:
    refused(client.http.post(ROUTE, content=body, headers={"Content-Type": "application/json"}, timeout=SECONDS))


def test_unknown_models_media_types_and_methods_are_refused(client: Client) -> None:
    refused(client.http.post(ROUTE, json=speech_body(model="tts-unknown")), 404)
    refused(client.http.post(ROUTE, data={"input": "Hello."}), 415)
    refused(client.http.get(ROUTE), 405)


def test_aac_is_a_stream_of_adts_frames(client: Client) -> None:
    response = speak(client, response_format="aac")
    assert response.headers["content-type"] == "audio/aac"
    assert response.content[0] == 0xFF
    assert response.content[1] & 0xF6 == 0xF0


def test_the_server_still_works_after_all_refusals(client: Client) -> None:
    assert speak(client, response_format="wav").content
