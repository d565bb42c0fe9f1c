"""Earlier answers by id: they are kept for a limited time and read back as exactly the same frames."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import Request, undelay
from reference.prompt import control, prompt_rows
from server import Client, Judge, deltas_of, message_of

from sglang_speechlm.server.reading.store import KEPT_SECONDS, AnswerStore

CHAT = "/v1/chat/completions"
FIRST = {"role": "user", "content": "Say something."}
THEN = {"role": "user", "content": "Say that again."}
GREEDY = {"temperature": 0, "max_tokens": 100}
TEXT = "What a day!"


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


def codes(frames: int) -> list[list[int]]:
    return [[t + s for s in range(8)] for t in range(frames)]


def test_an_answer_is_kept_unchanged_for_an_hour() -> None:
    clock = Clock()
    store = AnswerStore(10, 10**6, clock)
    expires = store.keep("a", "Hi!", [300, 0, 301], codes(5))
    assert expires == clock.now + KEPT_SECONDS
    clock.now = expires - 1
    kept = store.get("a")
    assert kept is not None
    assert kept.text == "Hi!"
    assert kept.text_ids.tolist() == [300, 0, 301]
    assert kept.codes.tolist() == codes(5)
    clock.now = expires
    assert store.get("a") is None
    assert len(store) == 0


def test_unknown_ids_have_no_answer() -> None:
    assert AnswerStore(10, 10**6).get("a") is None


def test_the_oldest_answer_is_evicted() -> None:
    store = AnswerStore(2, 10**6)
    for name in "abc":
        store.keep(name, "", [1], codes(1))
    assert [store.get(name) is not None for name in "abc"] == [False, True, True]


def test_an_oversized_answer_expires_at_once() -> None:
    clock = Clock()
    store = AnswerStore(10, 1000, clock)
    assert store.keep("a", "", [1], codes(1000)) == clock.now
    assert store.get("a") is None


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 2000)), max_size=60), st.integers(0, 5))
def test_the_number_and_size_of_kept_answers_are_limited(answers: list[tuple[int, int]], most: int) -> None:
    clock = Clock()
    store = AnswerStore(most, 2000, clock)
    names = []
    for i, (frames, seconds) in enumerate(answers):
        clock.now += seconds
        store.keep(str(i), "text", [1, 2], codes(frames))
        names.append(str(i))
        kept = [answer for name in names if (answer := store.get(name)) is not None]
        assert len(kept) == len(store) <= most
        assert sum(answer.size for answer in kept) <= 2000
        assert all(answer.expires > clock.now for answer in kept)


# Over HTTP


def chat_body(*messages: Any, stream: bool = False, **fields: Any) -> dict[str, Any]:
    speechlm = {"mode": "text_audio", "return_ids": True, **fields}
    return {"messages": list(messages), "speechlm": speechlm, "stream": stream, **GREEDY}


def earlier(message: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "audio": {"id": message["audio"]["id"]}, **more}


def reference_after(judge: Judge, spoken: Any) -> tuple[list[int], np.ndarray]:
    """Return the reference's greedy answer after a history with exactly these ids and codes of the assistant."""
    reference, ids = judge.reference, judge.reference.ids
    assert spoken["text_ids"][-1] in (ids.eot, ids.eos)
    frames = np.array(spoken["codes"])
    messages = [
        ("user", [("text", FIRST["content"])]),
        ("assistant", [("text", spoken["text_ids"][:-1]), ("frames", frames)]),
        ("user", [("text", THEN["content"])]),
    ]
    rows = prompt_rows(
        messages,  # type: ignore[arg-type]
        ids,
        lambda text: text if isinstance(text, list) else reference.encode(text),
        reference.hear,
    )
    rows.append(control(ids.text, ids))
    text = reference.generate_text(rows, GREEDY["max_tokens"])
    audio = reference.generate_audio(
        [*rows, *(control(token, ids) for token in text.ids), control(ids.assistant, ids)],
        GREEDY["max_tokens"] - len(text.ids),
    )
    assert min(text.margin, audio.margin) > 1e-3
    return text.ids, np.array(audio.frames)


def test_an_answer_after_a_spoken_history_equals_the_reference(client: Client, judge: Judge) -> None:
    first = message_of(client.chat(chat_body(FIRST)))
    response = client.chat(chat_body(FIRST, earlier(first), THEN))
    extension = message_of(response)["speechlm"]
    text_ids, frames = reference_after(judge, first["speechlm"])
    assert extension["text_ids"] == text_ids
    np.testing.assert_array_equal(np.array(extension["codes"]), undelay(frames.tolist(), judge.reference.ids))
    audio_tokens = response["usage"]["prompt_tokens_details"]["audio_tokens"]
    assert audio_tokens == len(first["speechlm"]["codes"]) + 7


def test_an_answer_after_a_given_text_equals_the_reference(client: Client, judge: Judge) -> None:
    first = message_of(client.chat(chat_body(FIRST, text=TEXT)))
    request = Request(
        [
            ("user", [("text", FIRST["content"])]),
            ("assistant", [("text", TEXT), ("frames", np.array(first["speechlm"]["codes"]))]),
            ("user", [("text", THEN["content"])]),
        ],
        speak=True,
        max_tokens=GREEDY["max_tokens"],
    )
    answer = judge.reference.answer(request)
    assert answer.margin > 1e-3
    extension = message_of(client.chat(chat_body(FIRST, earlier(first), THEN)))["speechlm"]
    assert extension["text_ids"] == answer.text_ids
    np.testing.assert_array_equal(np.array(extension["codes"]), answer.codes)


def test_other_frames_give_another_answer(client: Client) -> None:
    answers = []
    for seed in (1, 2):
        first = chat_body(FIRST, text=TEXT, audio_temperature=1.0, seed=seed, audio_max_frames=40)
        spoken = message_of(client.chat(first))
        answers.append(message_of(client.chat(chat_body(FIRST, earlier(spoken), THEN)))["speechlm"])
    assert answers[0]["codes"] != answers[1]["codes"]


def test_the_complete_message_may_be_sent_back(client: Client) -> None:
    first = message_of(client.chat(chat_body(FIRST)))
    bare = message_of(client.chat(chat_body(FIRST, earlier(first), THEN)))
    for message in (first, earlier(first, content=None), earlier(first, content=first["content"])):
        assert (
            message_of(client.chat(chat_body(FIRST, message, THEN)))["speechlm"]["codes"] == bare["speechlm"]["codes"]
        )


def test_a_streamed_answer_is_kept_too(client: Client) -> None:
    whole = message_of(client.chat(chat_body(FIRST)))
    chunks = client.stream(chat_body(FIRST))
    deltas = [chunk["choices"][0]["delta"].get("audio", {}) for chunk in chunks]
    (audio_id,) = [delta["id"] for delta in deltas if "id" in delta]
    (expires,) = [delta["expires_at"] for delta in deltas if "expires_at" in delta]
    assert abs(expires - whole["audio"]["expires_at"]) < 120
    again = {"role": "assistant", "audio": {"id": audio_id}}
    answers = [message_of(client.chat(chat_body(FIRST, message, THEN))) for message in (earlier(whole), again)]
    assert answers[0]["speechlm"]["codes"] == answers[1]["speechlm"]["codes"]


def test_the_choices_of_a_stream_equal_those_of_the_complete_answer(client: Client) -> None:
    body = {**chat_body(FIRST, seed=3, text_max_tokens=20, audio_max_frames=60), "temperature": 1.0, "n": 3}
    whole = client.chat(body)
    chunks = client.stream({**body, "stream_options": {"include_usage": True}})
    assert chunks[-1]["usage"] == {
        **whole["usage"],
        "prompt_tokens_details": chunks[-1]["usage"]["prompt_tokens_details"],
    }
    ids = set()
    order = [chunk["choices"][0]["index"] for chunk in chunks[:-1]]
    assert order != sorted(order)
    for choice in whole["choices"]:
        own = [chunk["choices"][0] for chunk in chunks[:-1] if chunk["choices"][0]["index"] == choice["index"]]
        deltas = deltas_of(chunks, choice["index"])
        assert deltas[0]["role"] == "assistant"
        assert "".join(delta.get("content", "") for delta in deltas) == choice["message"]["content"]
        assert deltas[-1]["speechlm"]["codes"] == choice["message"]["speechlm"]["codes"]
        assert [chunk["finish_reason"] for chunk in own if chunk["finish_reason"]] == [choice["finish_reason"]]
        ids |= {delta["audio"]["id"] for delta in deltas if "id" in delta.get("audio", {})}
    assert len(ids) == 3
    for audio_id in ids:
        assert client.chat(chat_body(FIRST, {"role": "assistant", "audio": {"id": audio_id}}, THEN))["choices"]


BAD: list[tuple[str, Any]] = [
    ("messages[1].audio.id", {"role": "assistant", "audio": {"id": "audio-none"}}),
    ("messages[1].audio.id", {"role": "assistant", "audio": {"id": "x" * 100_000}}),
    ("messages[1].audio.id", {"role": "assistant", "audio": {"id": 5}}),
    ("messages[1].audio", {"role": "assistant", "audio": "audio-none"}),
    ("messages[1].audio", {"role": "user", "audio": {"id": "audio-none"}}),
    ("messages[1].audio", {"role": "user", "content": "Hello.", "audio": {"id": "audio-none"}}),
    ("messages[1].content", {"role": "assistant", "content": 5, "audio": {"id": "audio-none"}}),
]


@pytest.mark.parametrize(("field", "message"), BAD, ids=[f"{i}-{field}" for i, (field, _) in enumerate(BAD)])
def test_a_bad_reference_is_named(field: str, message: Any, client: Client) -> None:
    response = client.http.post(CHAT, json=chat_body(FIRST, message, THEN))
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["param"] == field
    assert len(error["message"]) < 400


@pytest.mark.parametrize("text", [{"content": TEXT}, {"audio": {"id": "audio-none", "transcript": TEXT}}])
def test_the_text_of_an_unknown_id_is_used_with_a_warning(text: dict[str, Any], client: Client) -> None:
    spoken = {"role": "assistant", "audio": {"id": "audio-none"}, **text}
    message = message_of(client.chat(chat_body(FIRST, spoken, THEN)))
    (warning,) = message["speechlm"]["warnings"]
    assert warning.startswith("messages[1].audio.id: unknown or expired audio id 'audio-none'")
    written = message_of(client.chat(chat_body(FIRST, {"role": "assistant", "content": TEXT}, THEN)))
    assert message["speechlm"]["text_ids"] == written["speechlm"]["text_ids"]


def test_an_unknown_id_is_named(client: Client) -> None:
    message = {"role": "assistant", "audio": {"id": "audio-none"}}
    assert "'audio-none'" in client.http.post(CHAT, json=chat_body(FIRST, message)).json()["error"]["message"]


def test_a_text_that_differs_from_the_kept_one_is_refused(client: Client) -> None:
    first = message_of(client.chat(chat_body(FIRST, text=TEXT, audio_max_frames=20)))
    response = client.http.post(CHAT, json=chat_body(FIRST, earlier(first, content="Something else."), THEN))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages[1].content"


TAGGED = "<think>A plan.</think>Good day."


def test_think_tags_are_plain_text_without_a_thinking_preset(client: Client) -> None:
    message = message_of(client.chat(chat_body(FIRST, text=TAGGED)))
    assert message["content"] == message["audio"]["transcript"] == TAGGED
    assert "reasoning_content" not in message


def test_reasoning_is_ignored_with_a_warning_without_a_thinking_preset(client: Client) -> None:
    reply = {"role": "assistant", "content": TEXT}
    bare = client.chat(chat_body(FIRST, reply, THEN))
    answer = client.chat(chat_body(FIRST, {**reply, "reasoning_content": "A plan."}, THEN))
    assert answer["usage"]["prompt_tokens"] == bare["usage"]["prompt_tokens"]
    (warning,) = message_of(answer)["speechlm"]["warnings"]
    assert warning.startswith("messages[1].reasoning_content: not used")
