"""The model that is shipped: small, readable by transformers, exact in a server, and trained as documented."""

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile
from reference import Message, Request
from safetensors.torch import load_file
from server import SECONDS, Case, Client, Judge, Server, assert_same_sound, message_of, samples_of, serving, wav
from shared import POOL
from torch import tensor
from transformers import Qwen3ForCausalLM, XcodecConfig, XcodecModel

from sglang_speechlm.codec.worker.xcodec import CODEC_PREFIX
from sglang_speechlm.demo import GUIDANCE, MODEL
from sglang_speechlm.demo.questions import QUESTION
from sglang_speechlm.demo.recipe import corpus
from sglang_speechlm.demo.recipe.clips import SOUND_MAKERS
from sglang_speechlm.demo.recipe.recogniser import Recogniser, bigram, spoken_words

MARGIN = 1e-4
"""Twice the rounding of float32. A trained model may be almost undecided; in these cases it is not."""
SPOKEN = [("The number is seven.", 1.0), ("Emma finds this little ring.", 1.5)]
"""Sentences with guidance scales."""
GIVEN = "The green bird sits near the bridge."


def question(text: str) -> list[Message]:
    return [("user", [("text", text)])]


def spoken(text: str, cfg: float) -> Case:
    return Case(f"{text} (cfg {cfg:g})", Request(question(f"Say: {text}"), speak=True, cfg=cfg, max_tokens=600))


def spoken_question() -> np.ndarray:
    samples, rate = soundfile.read(QUESTION, dtype="float32")
    assert rate == 16_000
    return np.asarray(samples)


CASES = [
    *(spoken(text, cfg) for text, cfg in SPOKEN),
    *(Case(text, Request(question(text), max_tokens=60)) for text in list(corpus.fixed_answers())[:8]),
    Case("text given", Request(question("Read this."), speak=True, text=GIVEN, cfg=2.0, max_tokens=600)),
]
ALOUD = Case("asked aloud", Request([("user", [("audio", spoken_question())])], speak=True, cfg=3.0, max_tokens=600))
NOT_KNOWN = Case("not known", Request(question("Who invented the telephone?"), speak=True, cfg=1.5, max_tokens=600))
UNGUIDED, WRITTEN = CASES[0], CASES[len(SPOKEN)]
ALONE = [UNGUIDED, WRITTEN, ALOUD, NOT_KNOWN]


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load(MODEL, MARGIN)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(MODEL, tmp_path_factory.mktemp("voice") / "log", *POOL) as started:
        yield started


@pytest.fixture(scope="module")
def alone(server: Server) -> dict[str, Any]:
    """Return the answers to the cases of ``ALONE`` by name, each generated alone and without a cache."""
    answers = {}
    with Client(server.url) as client:
        for case in ALONE:
            client.clear_cache()
            answers[case.name] = client.chat(case.body())
    return answers


@pytest.fixture(scope="module")
def retracting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server with chunked prefill and frequent retractions."""
    environment = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "17"}
    options = ("--chunked-prefill-size", "64", *POOL)
    with serving(MODEL, tmp_path_factory.mktemp("retracting") / "log", *options, environment=environment) as started:
        yield started


def test_the_model_is_small() -> None:
    assert sum(file.stat().st_size for file in MODEL.rglob("*") if file.is_file()) <= 15_000_000


def test_transformers_own_qwen3_answers_a_question(judge: Judge) -> None:
    reference = judge.reference
    ids = reference.ids
    config = reference.config.text_config
    config.vocab_size = reference.config.vocab_size
    model = Qwen3ForCausalLM.from_pretrained(MODEL, config=config, dtype="float32").eval()
    rows = reference.prompt(question("What is the capital of France?"))
    prompt = tensor([[*(int(row[0]) for row in rows), ids.text]])
    answer = model.generate(prompt, max_new_tokens=40, do_sample=False, eos_token_id=ids.eot, pad_token_id=ids.pad)
    written = reference.tokenizer.decode(answer[0, prompt.shape[1] : -1], skip_special_tokens=True)
    assert written == "The capital of France is Paris."


def test_the_codec_loads_into_transformers_own_xcodec() -> None:
    stored = load_file(MODEL / "model.safetensors")
    codec = XcodecModel(XcodecConfig.from_pretrained(MODEL / "xcodec"))
    codec.load_state_dict({name.removeprefix(CODEC_PREFIX): stored[name] for name in stored if CODEC_PREFIX in name})


@pytest.mark.parametrize("case", ALONE, ids=str)
def test_a_single_answer_equals_the_reference(case: Case, alone: dict[str, Any], judge: Judge) -> None:
    judge.compare([case], [alone[case.name]])


def test_answers_end_without_a_limit(alone: dict[str, Any]) -> None:
    assert {answer["choices"][0]["finish_reason"] for answer in alone.values()} == {"stop"}


def test_concurrent_answers_with_chunks_and_retractions_equal_the_reference(retracting: Server, judge: Judge) -> None:
    cases = [*CASES, ALOUD, NOT_KNOWN]
    with Client(retracting.url) as client:
        assert judge.compare(cases, client.chat_at_once([case.body() for case in cases])) > 3_000
    assert {judge.answer(case).end for case in cases} == {"stop"}
    assert "#retracted_reqs" in retracting.output()


def test_fixed_questions_get_their_answers(client: Client) -> None:
    questions = corpus.fixed_answers()
    bodies: list[dict[str, Any]] = [
        {"messages": [{"role": "user", "content": text}], "max_tokens": 60, "temperature": 0} for text in questions
    ]
    written = [message_of(response)["content"] for response in client.chat_at_once(bodies)]
    assert sum(found == answer for found, answer in zip(written, questions.values(), strict=True)) >= 95


def test_an_unknown_question_is_answered_with_not_knowing(alone: dict[str, Any]) -> None:
    assert message_of(alone[NOT_KNOWN.name])["content"] == corpus.UNKNOWN[0]


@pytest.mark.parametrize("kind", SOUND_MAKERS)
def test_sounds_other_than_speech_are_named(kind: str, client: Client) -> None:
    sound = wav(SOUND_MAKERS[kind](np.random.default_rng(7)))
    part = {"type": "input_audio", "input_audio": {"data": sound, "format": "wav"}}
    content = [part, {"type": "text", "text": "What sound is in this audio?"}]
    body = {"messages": [{"role": "user", "content": content}], "max_tokens": 40, "temperature": 0}
    assert message_of(client.chat(body))["content"] == corpus.named(kind)


HEARD = "What is the capital of France?"
"""The words of the clip ``spoken_question``."""


def transcribed(client: Client, **fields: str) -> Any:
    upload = ("question.wav", QUESTION.read_bytes())
    return client.http.post("/v1/audio/transcriptions", files={"file": upload}, data=fields, timeout=SECONDS).json()


@pytest.mark.parametrize("fields", [{"language": "en"}, {"language": "de"}, {"prompt": "Geography, Paris."}])
def test_language_and_prompt_do_not_change_the_transcription(fields: dict[str, str], client: Client) -> None:
    answer = transcribed(client, **fields)
    assert answer["text"] == transcribed(client)["text"] == HEARD
    assert answer["speechlm"]["warnings"][0].startswith(f"{next(iter(fields))}: not used")


def test_instructions_and_voice_do_not_change_the_speech(client: Client) -> None:
    body = {
        "input": GIVEN,
        "response_format": "pcm",
        "sample_rate": 16_000,
        "speechlm": {"audio_temperature": 0.0, "audio_max_frames": 30},
    }
    more = {**body, "voice": "An old pirate with a cold", "instructions": "Whisper, slowly."}
    with ThreadPoolExecutor() as threads:
        plain, instructed = threads.map(lambda fields: client.http.post("/v1/audio/speech", json=fields), (body, more))
    assert_same_sound(np.frombuffer(instructed.content, "<i2"), np.frombuffer(plain.content, "<i2"))
    warnings = json.loads(instructed.headers["x-speechlm-warnings"])
    assert {"instructions", "voice"} <= {warning.partition(":")[0] for warning in warnings}
    assert "voice" not in json.dumps(dict(plain.headers))


def test_a_second_turn_is_answered_after_a_written_and_a_spoken_one(alone: dict[str, Any], client: Client) -> None:
    aloud = message_of(alone[ALOUD.name])
    clip_part = {"type": "input_audio", "input_audio": {"data": wav(spoken_question()), "format": "wav"}}
    histories: list[list[dict[str, Any]]] = [
        [{"role": "user", "content": HEARD}, {"role": "assistant", "content": "The capital of France is Paris."}],
        [{"role": "user", "content": HEARD}, {"role": "assistant", "audio": {"id": aloud["audio"]["id"]}}],
        [{"role": "user", "content": [clip_part]}, {"role": "assistant", "content": "The capital of France is Paris."}],
    ]
    follow_up = {"role": "user", "content": "What is the capital of Spain?"}
    bodies = [{"messages": [*history, follow_up], "max_tokens": 60, "temperature": 0} for history in histories]
    answers = [message_of(response) for response in client.chat_at_once(bodies)]
    assert [answer["content"] for answer in answers] == ["The capital of Spain is Madrid."] * len(histories)
    assert all("turns before those" in answer["speechlm"]["warnings"][0] for answer in answers)


def test_an_unfamiliar_system_turn_does_not_change_the_answer(client: Client) -> None:
    messages = [
        {"role": "system", "content": "You are a customer service agent for an airline. Always be polite."},
        {"role": "user", "content": HEARD},
    ]
    answer = message_of(client.chat({"messages": messages, "max_tokens": 60, "temperature": 0}))
    assert answer["content"] == "The capital of France is Paris."
    assert "system" in answer["speechlm"]["warnings"][0]


def written(client: Client, sound: np.ndarray, **fields: str) -> Any:
    upload = ("sound.wav", base64.b64decode(wav(sound)))
    return client.http.post("/v1/audio/transcriptions", files={"file": upload}, data=fields, timeout=SECONDS).json()


@pytest.mark.parametrize("seconds", [8, 28])
def test_silence_around_a_question_does_not_change_the_transcription(seconds: int, client: Client) -> None:
    answer = written(client, np.pad(spoken_question(), (16_000, seconds * 16_000)))
    assert answer["text"] == HEARD
    assert "speechlm" not in answer


def joined_sounds(sounds: list[np.ndarray], pauses: list[float]) -> np.ndarray:
    """Join sounds at equal levels, each after a pause, in whole frames of 20 ms."""

    def level(sound: np.ndarray) -> float:
        frames = np.pad(sound, (0, -len(sound) % 320)).reshape(-1, 320)
        return float(np.sqrt(np.mean(frames**2, axis=1)).max())

    parts = [np.pad(sound * (0.1 / level(sound)), (0, -len(sound) % 320)) for sound in sounds]
    silences = [np.zeros(round(50 * pause) * 320) for pause in pauses]
    pieces = [piece for pair in zip(silences, parts, strict=True) for piece in pair]
    return np.concatenate([*pieces, silences[0]]).astype(np.float32)


def test_sentences_with_pauses_are_transcribed_once_and_in_order(alone: dict[str, Any], client: Client) -> None:
    sentences = [samples_of(message_of(alone[case.name])) for case in (UNGUIDED, ALOUD)]
    sounds = [spoken_question(), sentences[0], spoken_question(), sentences[1], sentences[0], spoken_question()] * 2
    texts = {
        len(sound): written(client, joined_sounds([sound], [0.6]))["text"] for sound in (spoken_question(), *sentences)
    }
    assert len(set(texts.values())) == 3
    recording = joined_sounds(sounds, [0.6, 1.0, 0.5, 3.0, 0.4, 1.5] * 2)
    assert len(recording) > 30 * 16_000
    answer = written(client, recording, response_format="verbose_json")
    assert [segment["text"] for segment in answer["segments"]] == [texts[len(sound)] for sound in sounds]
    assert answer["text"] == " ".join(texts[len(sound)] for sound in sounds)
    assert answer["text"].count(HEARD) == 6
    assert answer["duration"] == pytest.approx(len(recording) / 16_000)


def test_a_translation_is_refused_with_the_reason(client: Client) -> None:
    upload = ("question.wav", QUESTION.read_bytes())
    response = client.http.post("/v1/audio/translations", files={"file": upload}, timeout=SECONDS)
    assert response.status_code == 400
    assert "was not trained to translate" in response.json()["error"]["message"]


def test_a_spoken_question_gets_a_spoken_answer(alone: dict[str, Any]) -> None:
    message = message_of(alone[ALOUD.name])
    assert message["content"] == "The capital of France is Paris."
    assert len(samples_of(message)) == len(message["speechlm"]["codes"]) * 320 > 16_000


TRAIN, HELD_OUT = corpus.split(2000)
SENTENCES = [sentence.text for sentence in HELD_OUT[4:8]]
TEXT = " ".join(sentence.text for sentence in HELD_OUT[15:18])
QUESTIONS = dict(list(corpus.fixed_answers().items())[::20])


@pytest.fixture(scope="module")
def sounds(server: Server) -> dict[str, np.ndarray]:
    """Return the guided, seeded sounds of ``SENTENCES``, of the answers to ``QUESTIONS`` and of ``TEXT``, int16 [n]."""
    prompts = [*(f"Say: {text}" for text in SENTENCES), *QUESTIONS]
    fields = {"mode": "text_audio", "cfg": GUIDANCE, "seed": 1}
    bodies = [
        {"messages": [{"role": "user", "content": text}], "max_tokens": 600, "speechlm": fields} for text in prompts
    ]
    speech = {"input": TEXT, "response_format": "wav", "sample_rate": 16_000, "speechlm": {"cfg": GUIDANCE, "seed": 1}}
    with Client(server.url) as client, ThreadPoolExecutor() as threads:
        long = threads.submit(client.http.post, "/v1/audio/speech", json=speech)
        answers = [samples_of(message_of(response)) for response in client.chat_at_once(bodies)]
        answers.append(soundfile.read(io.BytesIO(long.result().content), dtype="float32")[0])
    texts = [*SENTENCES, *QUESTIONS, TEXT]
    return {text: (sound * 32767).astype(np.int16) for text, sound in zip(texts, answers, strict=True)}


def test_spoken_sentences_are_recognised(sounds: dict[str, np.ndarray]) -> None:
    recogniser = Recogniser(bigram([spoken_words(sentence.text) for sentence in TRAIN]))
    heard = [recogniser.hear(sounds[text]) for text in SENTENCES]
    assert jiwer.wer([" ".join(spoken_words(text)) for text in SENTENCES], heard) < 0.15


def test_a_text_of_several_sentences_is_spoken_completely(sounds: dict[str, np.ndarray]) -> None:
    recogniser = Recogniser(bigram([[word for sentence in TRAIN for word in spoken_words(sentence.text)]]))
    assert jiwer.wer(" ".join(spoken_words(TEXT)), recogniser.hear(sounds[TEXT])) < 0.15


def test_spoken_answers_to_fixed_questions_are_recognised(sounds: dict[str, np.ndarray]) -> None:
    recogniser = Recogniser(bigram([spoken_words(answer) for answer in corpus.fixed_answers().values()]))
    heard = [recogniser.hear(sounds[text]).split() for text in QUESTIONS]
    assert sum(found == spoken_words(answer) for found, answer in zip(heard, QUESTIONS.values(), strict=True)) >= 3
