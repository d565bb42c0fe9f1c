"""POST /v1/audio/transcriptions: the text that the model writes when it is asked to transcribe a clip."""

import base64
import io
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import soundfile
from openai.types.audio import TranscriptionSegment
from recorded import recorded_file
from reference import Request
from server import SECONDS, Case, Client, Judge, Server, clip, message_of, refused, wait_for, wav
from server.stock import openai_client

ROUTE = "/v1/audio/transcriptions"
INSTRUCTION = "Transcribe the speech in this audio, word for word."
CLIP = clip(21, 1.2)


def file(samples: np.ndarray = CLIP) -> bytes:
    return base64.b64decode(wav(samples))


def post(client: Client, data: bytes | None = None, **fields: Any) -> httpx.Response:
    files = {"file": ("speech.wav", file() if data is None else data)}
    return client.http.post(ROUTE, files=files, data={"model": "speechlm", **fields}, timeout=SECONDS)


def post_at_once(client: Client, *requests: dict[str, Any]) -> list[Any]:
    """Return the JSON responses to concurrent requests, each with the arguments of ``post``."""
    with ThreadPoolExecutor() as threads:
        return [response.json() for response in threads.map(lambda fields: post(client, **fields), requests)]


def expected(judge: Judge, instruction: str = INSTRUCTION) -> str:
    """Return the reference's text."""
    request = Request([("user", [("audio", CLIP), ("text", instruction)])], max_tokens=500)
    answer = judge.answer(Case(f"transcription: {instruction}", request))
    return str(judge.reference.tokenizer.decode(answer.content_ids, skip_special_tokens=True))


@pytest.fixture(scope="module")
def stock(server: Server) -> Iterator[openai.OpenAI]:
    with openai_client(server.url) as client:
        yield client


def test_the_text_equals_the_references(client: Client, judge: Judge) -> None:
    response = post(client)
    assert response.status_code == 200, response.text
    assert response.json()["text"] == expected(judge)
    assert "speechlm" not in response.json()


def test_language_and_prompt_are_part_of_the_instruction(client: Client, judge: Judge) -> None:
    instruction = f"{INSTRUCTION} The language is French. It may help to know: {{language}}"
    text = post(client, language="French", prompt="{language}").json()["text"]
    assert text == expected(judge, instruction)
    assert text != expected(judge)


def test_the_stock_client_gets_json_and_text(stock: openai.OpenAI, judge: Judge) -> None:
    upload = ("speech.wav", file())
    answer = stock.audio.transcriptions.create(model="speechlm", file=upload)
    assert answer.text == expected(judge)
    assert answer.usage is not None
    assert answer.usage.type == "tokens"
    assert answer.usage.input_token_details is not None
    assert answer.usage.input_token_details.audio_tokens is not None
    assert 0 < answer.usage.input_token_details.audio_tokens < answer.usage.input_tokens
    assert answer.usage.total_tokens == answer.usage.input_tokens + answer.usage.output_tokens
    plain = stock.audio.transcriptions.create(model="speechlm", file=upload, response_format="text")
    assert plain == expected(judge)


def test_verbose_json_has_the_duration_the_language_and_segments(stock: openai.OpenAI, judge: Judge) -> None:
    upload = ("speech.wav", file())
    answer = stock.audio.transcriptions.create(
        model="speechlm", file=upload, response_format="verbose_json", timestamp_granularities=["segment"]
    )
    assert answer.text == expected(judge)
    assert answer.duration == pytest.approx(1.2)
    assert answer.language == ""
    assert answer.segments is not None
    (segment,) = answer.segments
    assert TranscriptionSegment.model_validate(segment.model_dump(), strict=True)
    assert (segment.id, segment.start) == (0, 0.0)
    assert segment.end == pytest.approx(1.2)
    assert segment.text == expected(judge).strip()
    assert judge.reference.tokenizer.decode(segment.tokens) == segment.text
    assert not answer.words
    in_french = stock.audio.transcriptions.create(
        model="speechlm", file=upload, response_format="verbose_json", language="fr"
    )
    assert in_french.language == "fr"


def test_word_timestamps_are_refused_and_the_error_names_what_is_allowed(client: Client) -> None:
    fields: dict[str, Any] = {"timestamp_granularities[]": ["segment", "word"]}
    error = refused(post(client, response_format="verbose_json", **fields))
    assert error["param"] == "timestamp_granularities"
    assert "must be ['segment']" in error["message"]


@pytest.mark.parametrize("fields", [{"timestamp_granularities[]": ["segment"]}, {"timestamp_granularities": "segment"}])
def test_granularities_without_timestamps_cause_a_warning(fields: dict[str, Any], client: Client) -> None:
    assert "timestamp_granularities" in post(client, **fields).json()["speechlm"]["warnings"][0]


def test_subtitles_have_the_standard_formats(stock: openai.OpenAI, judge: Judge) -> None:
    upload = ("speech.wav", file())
    lines = [line for line in expected(judge).strip().splitlines() if line.strip()]
    srt = stock.audio.transcriptions.create(model="speechlm", file=upload, response_format="srt")
    assert srt.splitlines() == ["1", "00:00:00,000 --> 00:00:01,200", *lines]
    vtt = stock.audio.transcriptions.create(model="speechlm", file=upload, response_format="vtt")
    assert vtt.splitlines()[:3] == ["WEBVTT", "", "00:00:00.000 --> 00:00:01.200"]


def test_a_translation_is_requested_in_english(stock: openai.OpenAI, judge: Judge) -> None:
    upload = ("speech.wav", file())
    text = expected(judge, "Translate the speech in this audio into English.")
    assert text != expected(judge)
    assert stock.audio.translations.create(model="speechlm", file=upload).text == text
    answer = stock.audio.translations.create(model="speechlm", file=upload, response_format="verbose_json")
    assert (answer.text, answer.language) == (text, "english")
    assert answer.segments is not None
    assert answer.segments[0].text == text.strip()


def test_the_stock_client_streams(stock: openai.OpenAI, judge: Judge) -> None:
    stream = stock.audio.transcriptions.create(model="speechlm", file=("speech.wav", file()), stream=True)
    *deltas, done = list(stream)
    assert len(deltas) > 1
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == expected(judge)
    assert done.type == "transcript.text.done"
    assert done.text == expected(judge)
    assert done.usage is not None
    assert done.usage.output_tokens > len(deltas)


def test_a_temperature_samples_the_text(client: Client, judge: Judge) -> None:
    answers = post_at_once(client, *[{"temperature": "2"}] * 3)
    assert {answer["text"] for answer in answers} != {expected(judge)}


@pytest.mark.parametrize("name", ["FLAC", "OGG", "MP3"])
def test_other_audio_formats_are_accepted(name: str, client: Client) -> None:
    encoded = io.BytesIO()
    soundfile.write(encoded, CLIP, 16000, format=name)
    assert post(client, encoded.getvalue()).status_code == 200


@pytest.mark.parametrize("name", ["m4a", "webm"])
def test_recordings_of_phones_and_browsers_are_accepted(name: str, client: Client) -> None:
    data = recorded_file(name, CLIP)
    answer = post(client, data, response_format="verbose_json").json()
    assert answer["duration"] == pytest.approx(1.2, abs=0.15)
    part = {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": name}}
    message = message_of(client.chat({"messages": [{"role": "user", "content": [part]}], "max_tokens": 5}))
    assert "speechlm" not in message


def test_the_servers_own_aac_is_accepted(client: Client) -> None:
    body = {
        "input": "Good day.",
        "response_format": "aac",
        "speechlm": {"audio_max_frames": 30, "audio_min_frames": 30},
    }
    spoken = client.http.post("/v1/audio/speech", json=body, timeout=SECONDS)
    answer = post(client, spoken.content, response_format="verbose_json").json()
    assert answer["duration"] == pytest.approx(30 * 0.02, abs=0.3)


def test_a_long_recording_is_transcribed_window_by_window(client: Client) -> None:
    samples = np.concatenate([clip(22, 18), np.zeros(4000, np.float32), clip(23, 12), np.zeros(40_000), clip(24, 2)])
    upload = file(samples)
    answer, short = post_at_once(client, {"data": upload, "response_format": "verbose_json"}, {"data": upload})
    assert answer["duration"] == pytest.approx(len(samples) / 16_000)
    segments = answer["segments"]
    assert [segment["start"] for segment in segments] == [
        0,
        pytest.approx(18.1, abs=0.2),
        pytest.approx(32.55, abs=0.1),
    ]
    parts = [samples[round(16_000 * part["start"]) : round(16_000 * part["end"])] for part in segments]
    alone = post_at_once(client, *({"data": file(part)} for part in parts))
    assert [segment["text"] for segment in segments] == [part["text"].strip() for part in alone]
    assert answer["text"].split() == " ".join(part["text"] for part in alone).split()
    assert "speechlm" not in answer
    for count in ("input_tokens", "output_tokens", "total_tokens"):
        assert short["usage"][count] == sum(part["usage"][count] for part in alone)


LONG = file(np.concatenate([clip(25, 20), np.zeros(4000, np.float32), clip(26, 20)]))


@pytest.fixture(scope="module")
def long(server: Server, stock: openai.OpenAI) -> tuple[Any, list[Any], list[Any]]:
    """Return a long recording's complete transcription, its stream, and its stream with timestamps."""

    def stream(**fields: Any) -> list[Any]:
        upload = ("a.wav", LONG)
        return list(stock.audio.transcriptions.create(model="speechlm", file=upload, stream=True, **fields))

    with Client(server.url) as client, ThreadPoolExecutor() as threads:
        plain, stamped = threads.submit(stream), threads.submit(stream, timestamp_granularities=["segment"])
        verbose, short = post_at_once(client, {"data": LONG, "response_format": "verbose_json"}, {"data": LONG})
        return {**verbose, "usage": short["usage"]}, plain.result(), stamped.result()


def test_a_long_recording_streams_the_complete_text(long: tuple[Any, list[Any], list[Any]]) -> None:
    whole, (*deltas, done), _ = long
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == done.text
    assert done.text == whole["text"]
    assert done.usage is not None
    assert done.usage.total_tokens == whole["usage"]["total_tokens"]


def test_a_stream_has_the_timestamps_of_each_segment_as_it_ends(long: tuple[Any, list[Any], list[Any]]) -> None:
    whole, _, received = long
    segments = [event for event in received if event.type == "transcript.text.segment"]
    for found, expected in zip(segments, whole["segments"], strict=True):
        assert (found.start, found.end, found.text) == tuple(expected[name] for name in ("start", "end", "text"))
    first = received.index(segments[0])
    assert "".join(event.delta for event in received[:first] if event.type == "transcript.text.delta").strip() == (
        segments[0].text
    )
    assert received[-1].type == "transcript.text.done"
    assert received[-2].type == "transcript.text.segment"


def test_max_tokens_limits_all_windows_together(client: Client) -> None:
    answer = post(client, LONG, logit_bias=UNENDING, temperature="1.5", seed="3", max_tokens="40").json()
    assert answer["usage"]["output_tokens"] == 40
    assert "max_tokens" in answer["speechlm"]["warnings"][0]


def test_a_disconnected_client_ends_the_transcription(client: Client, server: Server) -> None:
    recording = file(np.concatenate([clip(27, 25), np.zeros(4000, np.float32)] * 8))
    form = {"stream": "true", "logit_bias": UNENDING, "temperature": "1.5", "max_tokens": "100000"}
    headers = {"X-Request-Id": "leaves-early"}
    with client.http.stream("POST", ROUTE, files={"file": ("a.wav", recording)}, data=form, headers=headers) as stream:
        next(stream.iter_bytes())
    assert wait_for(lambda: "request_id=leaves-early" in server.output())
    assert wait_for(lambda: client.load()["num_running_reqs"] == 0)
    (line,) = [line for line in server.output().splitlines() if "request_id=leaves-early" in line]
    (replies,) = re.findall(r"replies=(\d+)", line)
    assert int(replies) < 8


UNENDING = json.dumps({"2": -100, "3": -100})
"""A bias against eot and eos."""


SHORT = file(CLIP[:3200])
CAPACITY = 48 * 0.2 // 1 + 64
"""Maximum tokens of a text that ``SHORT`` can contain."""


def test_an_endless_text_is_cut_at_what_the_clip_can_contain(client: Client) -> None:
    answer = post(client, SHORT, logit_bias=UNENDING, temperature="1.5", seed="3").json()
    assert answer["usage"]["output_tokens"] == CAPACITY
    assert "more than 0.2 s of speech can need" in answer["speechlm"]["warnings"][0]


def test_a_repetition_is_ended_in_streams_as_in_complete_answers(client: Client, stock: openai.OpenAI) -> None:
    bias = json.dumps({"1000": 100})
    with ThreadPoolExecutor() as threads:
        complete = threads.submit(post, client, logit_bias=bias)
        stream = stock.audio.transcriptions.create(
            model="speechlm", file=("a.wav", file()), stream=True, extra_body={"logit_bias": {"1000": 100}}
        )
        *deltas, done = list(stream)
        whole = complete.result().json()
    assert done.type == "transcript.text.done"
    assert "".join(event.delta for event in deltas if event.type == "transcript.text.delta") == done.text
    assert done.text == whole["text"]
    assert "repeat" in whole["speechlm"]["warnings"][0]


def test_max_tokens_of_the_request_take_precedence(client: Client) -> None:
    limits = (("max_tokens", CAPACITY + 7), ("max_completion_tokens", 9))
    fixed = {"data": SHORT, "logit_bias": UNENDING, "temperature": "1.5", "seed": "3"}
    answers = post_at_once(client, *({**fixed, name: str(int(count))} for name, count in limits))
    for answer, (_, count) in zip(answers, limits, strict=True):
        assert answer["usage"]["output_tokens"] == count
        assert "max_tokens" in answer["speechlm"]["warnings"][0]


def test_min_tokens_of_the_request_take_precedence(client: Client) -> None:
    least = int(CAPACITY) + 3
    fixed = {"data": SHORT, "min_tokens": str(least), "temperature": "1.5"}
    unending, seeded = post_at_once(
        client,
        {**fixed, "max_completion_tokens": str(least + 4), "logit_bias": UNENDING},
        {**fixed, "seed": "3"},
    )
    assert unending["usage"]["output_tokens"] == least + 4
    assert seeded["usage"]["output_tokens"] >= least


def test_a_seed_repeats_the_text(client: Client) -> None:
    seeds: list[dict[str, str]] = [
        {"seed": "5"},
        {"seed": "5"},
        {"speechlm[seed]": "5"},
        {"speechlm": '{"seed": 5}'},
        {"seed": "6"},
    ]
    answers = post_at_once(client, *({"temperature": "1.5", **fields} for fields in seeds))
    *same, other = (answer["text"] for answer in answers)
    assert len(set(same)) == 1
    assert other not in same


def test_extension_fields_take_precedence_over_the_forms(client: Client, judge: Judge) -> None:
    places = ("speechlm", "vllm_xargs")
    answers = post_at_once(client, *({"temperature": "2", f"{place}[text_temperature]": "0"} for place in places))
    assert [answer["text"] for answer in answers] == [expected(judge)] * 2


def test_the_stock_client_sends_lists_and_objects(stock: openai.OpenAI, judge: Judge) -> None:
    upload = ("speech.wav", file())
    body = {"stop_token_ids": [3], "stop": ["\x01"], "speechlm": {"text_temperature": 0}, "logit_bias": {"5": 1}}
    answer = stock.audio.transcriptions.create(model="speechlm", file=upload, temperature=2, extra_body=body)
    assert answer.text == expected(judge)


BLANK = [{"language": blank, "prompt": blank} for blank in (" ", "\n", "\u200b")]
EMPTY = [
    {field: ""}
    for field in (
        "language", "prompt", "temperature", "max_tokens", "response_format", "stream", "seed", "speechlm", "stop[]",
    )
]  # fmt: skip


@pytest.fixture(scope="module")
def without_values(server: Server) -> list[Any]:
    """Return the answers to requests with the fields of ``BLANK`` and ``EMPTY``."""
    with Client(server.url) as client:
        return post_at_once(client, *BLANK, *EMPTY)


@pytest.mark.parametrize("number", range(len(BLANK)))
def test_a_blank_language_or_prompt_is_ignored(number: int, without_values: list[Any], judge: Judge) -> None:
    assert without_values[number]["text"] == expected(judge)


@pytest.mark.parametrize(("number", "field"), enumerate([*map(next, map(iter, EMPTY))], start=len(BLANK)))
def test_an_empty_field_is_ignored(number: int, field: str, without_values: list[Any], judge: Judge) -> None:
    assert without_values[number]["text"] == expected(judge), field


def nan_wav() -> bytes:
    encoded = io.BytesIO()
    soundfile.write(encoded, np.array([0.1] * 800 + [np.nan], np.float32), 16000, format="WAV", subtype="FLOAT")
    return encoded.getvalue()


BAD_FIELDS: list[tuple[str, dict[str, Any]]] = [
    ("response_format", {"response_format": "diarized_json"}),
    ("response_format", {"response_format": "verbose_json", "stream": "true"}),
    ("response_format", {"response_format": "srt", "stream": "true"}),
    ("temperature", {"temperature": "hot"}),
    ("temperature", {"temperature": "-0.5"}),
    ("temperature", {"temperature": "2.5"}),
    ("temperature", {"temperature": "nan"}),
    ("temperature", {"temperature": "inf"}),
    ("stream", {"stream": "perhaps"}),
    ("language", {"language": "x" * 200}),
    ("timestamp_granularities", {"timestamp_granularities[]": ["word"], "response_format": "verbose_json"}),
    ("include", {"include[]": ["logprobs"]}),
    ("seed", {"seed": "soon"}),
    ("seed", {"seed": "1.5"}),
    ("max_tokens", {"max_tokens": "0"}),
    ("top_k", {"top_k": "-2"}),
    ("logit_bias", {"logit_bias": "much"}),
    ("speechlm", {"speechlm": "{"}),
    ("seed: must be given only once", {"speechlm": '{"seed": 1, "seed": 2}'}),
    ("speechlm", {"speechlm": "loud", "speechlm[seed]": "1"}),
    ("speechlm.volume", {"speechlm[volume]": "3"}),
    ("speechlm.mode", {"speechlm[mode]": "text_audio"}),
    ("speechlm.mode", {"modalities[]": ["text", "audio"]}),
    ("speechlm.text", {"speechlm[text]": "Hello."}),
    ("speechlm.return_ids", {"speechlm[return_ids]": "true"}),
    ("temperature", {"stop": "a", "stop[]": "", "temperature": "x"}),
    ("prompt", {"prompt": "word " * 9000}),
]
BAD_FILES: list[tuple[str, bytes]] = [
    ("empty", b""),
    ("text", b"This is no audio at all."),
    ("cut off in the header", file()[:30]),
    ("without samples", file(CLIP[:0])),
    ("too short", file(CLIP[:80])),
    ("NaN", nan_wav()),
    ("zeros", b"\0" * 1000),
]
BOUNDARY = b"--b\r\n"
PART = BOUNDARY + b'Content-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n'
BAD_FORMS: list[tuple[str, str, bytes]] = [
    ("nothing", "multipart/form-data; boundary=b", b""),
    ("no boundary", "multipart/form-data", PART % (b"file", b'; filename="a.wav"', file())),
    ("another boundary", "multipart/form-data; boundary=c", PART % (b"file", b'; filename="a.wav"', file())),
    ("no file", "multipart/form-data; boundary=b", PART % (b"model", b"", b"speechlm") + b"--b--\r\n"),
    ("a file as text", "multipart/form-data; boundary=b", PART % (b"file", b"", b"RIFF") + b"--b--\r\n"),
    ("two files", "multipart/form-data; boundary=b", PART % (b"file", b'; filename="a"', file()) * 2 + b"--b--\r\n"),
    ("a part without a name", "multipart/form-data; boundary=b", BOUNDARY + b"X: y\r\n\r\nz\r\n--b--\r\n"),
    ("no headers", "multipart/form-data; boundary=b", BOUNDARY + b"\xff\xfe\r\n--b--\r\n"),
    ("many fields", "multipart/form-data; boundary=b", PART % (b"x", b"", b"y") * 200 + b"--b--\r\n"),
    (
        "a field twice",
        "multipart/form-data; boundary=b",
        PART % (b"language", b"", b"en") * 2 + PART % (b"file", b'; filename="a.wav"', file()) + b"--b--\r\n",
    ),
    (
        "a text beside the file",
        "multipart/form-data; boundary=b",
        PART % (b"file", b"", b"a.wav") + PART % (b"file", b'; filename="a.wav"', file()) + b"--b--\r\n",
    ),
    (
        "a list and a text",
        "multipart/form-data; boundary=b",
        PART % (b"stop", b"", b"a")
        + PART % (b"stop[]", b"", b"b")
        + PART % (b"file", b'; filename="a.wav"', file())
        + b"--b--\r\n",
    ),
    ("a long field", "multipart/form-data; boundary=b", PART % (b"prompt", b"", b"y" * (2 << 20)) + b"--b--\r\n"),
]


@pytest.mark.parametrize(
    ("field", "fields"), BAD_FIELDS, ids=[f"{i}-{field}" for i, (field, _) in enumerate(BAD_FIELDS)]
)
def test_a_bad_field_is_named(field: str, fields: dict[str, Any], client: Client) -> None:
    assert field in refused(post(client, **fields))["message"]


@pytest.mark.parametrize("data", [data for _, data in BAD_FILES], ids=[name for name, _ in BAD_FILES])
def test_a_bad_file_is_refused(data: bytes, client: Client) -> None:
    assert refused(post(client, data))["param"] == "file"


@pytest.mark.parametrize(
    ("content_type", "body"), [form[1:] for form in BAD_FORMS], ids=[name for name, _, _ in BAD_FORMS]
)
def test_a_bad_form_is_refused(content_type: str, body: bytes, client: Client) -> None:
    headers = {"Content-Type": content_type}
    refused(client.http.post(ROUTE, content=body, headers=headers, timeout=SECONDS))


def test_unknown_models_media_types_and_methods_are_refused(client: Client) -> None:
    refused(post(client, model="unknown"), 404)
    refused(client.http.post(ROUTE, json={"file": "x"}), 415)
    refused(client.http.post(ROUTE, data={"file": "x"}), 415)
    refused(client.http.get(ROUTE), 405)


def test_damaged_files_write_nothing_unexpected_to_the_log(server: Server, client: Client) -> None:
    encoded = io.BytesIO()
    soundfile.write(encoded, clip(3, 2.0), 16000, format="MP3", subtype="MPEG_LAYER_III")
    data = bytearray(encoded.getvalue())
    data[len(data) // 3 :: 97] = b"\xff" * len(data[len(data) // 3 :: 97])
    before = len(server.output())
    post(client, bytes(data), max_tokens=1)
    written = server.output()[before:]
    assert all(line.startswith("[20") for line in written.splitlines()), written


def test_the_server_still_transcribes_after_all_refusals(client: Client, judge: Judge) -> None:
    assert json.loads(post(client).content)["text"] == expected(judge)
