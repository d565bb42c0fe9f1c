"""A server with an extended preset: its prompts, and thinking in its answers."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
import sglang as sgl
from server import Client, assert_same_sound, deltas_of, message_of, samples_of, serving
from shared import POOL

from sglang_speechlm import frontend
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.prompt.thinking import split
from sglang_speechlm.tokenizer import TextTokenizer

SYSTEM = "Perform the described scene."
GREEDY: dict[str, Any] = {"text_temperature": 0.0, "audio_temperature": 0.0, "audio_max_frames": 16}
SCENE = "A calm man in a quiet room says: 'Good day.' He is tired."


@pytest.fixture(scope="module")
def client(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("preset")
    preset = folder / "own.json"
    preset.write_text(json.dumps({"extends": "bagpiper-sft", "system": {"generation": SYSTEM}}))
    options = (*POOL, "--preset", str(preset))
    with serving(served_checkpoint, folder / "log", *options) as server, Client(server.url) as client:
        yield client


def chat_body(*messages: dict[str, Any], **speechlm: Any) -> dict[str, Any]:
    return {"messages": list(messages), "speechlm": {**GREEDY, "return_ids": True, **speechlm}}


def chat(client: Client, *messages: dict[str, Any], **speechlm: Any) -> Any:
    return client.chat(chat_body(*messages, **speechlm))


def test_speech_is_requested_as_a_scene_in_a_chat(client: Client) -> None:
    body = {
        "input": "Good day.",
        "voice": "A calm man in a quiet room",
        "instructions": "He is tired.",
        "response_format": "pcm",
        "sample_rate": 16_000,
        "speechlm": GREEDY,
    }
    with ThreadPoolExecutor() as threads:
        speech = threads.submit(client.http.post, "/v1/audio/speech", json=body)
        scene = chat(client, {"role": "user", "content": SCENE}, mode="text_audio")
        response = speech.result()
    assert message_of(scene)["content"]
    assert_same_sound(np.frombuffer(response.content, "<i2"), samples_of(message_of(scene)))


def test_a_spoken_chat_without_a_system_turn_gets_the_presets(client: Client) -> None:
    user = {"role": "user", "content": "Good day."}
    system = {"role": "system", "content": SYSTEM}
    bodies = [chat_body(user, mode="text_audio"), chat_body(system, user, mode="text_audio")]
    bare, whole = client.chat_at_once(bodies)
    assert message_of(bare)["speechlm"]["codes"] == message_of(whole)["speechlm"]["codes"]
    assert bare["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]


def test_a_written_chat_gets_no_system_turn_for_speech(client: Client) -> None:
    user = {"role": "user", "content": "Good day."}
    few = {"text_max_tokens": 4}
    spoken, written = client.chat_at_once([chat_body(user, mode="text_audio", **few), chat_body(user, **few)])
    assert written["usage"]["prompt_tokens"] < spoken["usage"]["prompt_tokens"]


# Thinking in given texts: a small random model does not write any.

PLAN, CAPTION = " A calm man greets. ", "\n\nGood day, he says."
TAGGED = f"<think>{PLAN}</think>{CAPTION}"
LONE = f"{PLAN}</think>{CAPTION}"
FIRST, THEN = {"role": "user", "content": "Say something."}, {"role": "user", "content": "Say that again."}


@pytest.fixture(scope="module")
def planned(client: Client) -> Any:
    """Return a spoken answer with a plan."""
    return message_of(chat(client, FIRST, mode="text_audio", text=TAGGED))


def read_as(client: Client, *replies: dict[str, Any]) -> list[tuple[int, list[int], list[str]]]:
    """Return the prompt tokens, the text ids and the warnings of answers after a history with each of the replies."""
    bodies = [chat_body(FIRST, {"role": "assistant", **reply}, THEN, text_max_tokens=12) for reply in replies]
    answers = client.chat_at_once(bodies)
    extensions = [message_of(answer)["speechlm"] for answer in answers]
    return [
        (answer["usage"]["prompt_tokens"], extension["text_ids"], extension["warnings"])
        for answer, extension in zip(answers, extensions, strict=True)
    ]


@pytest.mark.parametrize("text", [TAGGED, LONE])
def test_a_plan_is_reasoning_and_not_part_of_the_transcript(text: str, client: Client) -> None:
    message = message_of(chat(client, FIRST, mode="text_audio", text=text))
    assert message["reasoning_content"] == PLAN
    assert message["content"] == message["audio"]["transcript"] == CAPTION


def test_the_audio_is_conditioned_on_the_plan(planned: Any, client: Client) -> None:
    bare = message_of(chat(client, FIRST, mode="text_audio", text=CAPTION))
    assert "reasoning_content" not in bare
    assert bare["content"] == CAPTION
    assert len(planned["speechlm"]["text_ids"]) > len(bare["speechlm"]["text_ids"])
    assert planned["speechlm"]["codes"] != bare["speechlm"]["codes"]


def test_a_stream_begins_with_the_plan(planned: Any, client: Client) -> None:
    body = {"messages": [FIRST], "speechlm": {**GREEDY, "return_ids": True, "mode": "text_audio", "text": TAGGED}}
    deltas = deltas_of(client.stream(body))
    kinds = [name for delta in deltas for name in ("reasoning_content", "content", "audio") if delta.get(name)]
    assert kinds[:3] == ["reasoning_content", "content", "audio"]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == PLAN
    assert "".join(delta.get("content", "") for delta in deltas) == CAPTION
    assert [delta["audio"]["transcript"] for delta in deltas if "transcript" in delta.get("audio", {})] == [CAPTION]
    assert deltas[-1]["speechlm"]["text_ids"] == planned["speechlm"]["text_ids"]


def test_unfinished_thinking_is_followed_by_audio(client: Client) -> None:
    message = message_of(chat(client, FIRST, mode="text_audio", text=f"<think>{PLAN}"))
    assert (message["reasoning_content"], message["content"]) == (PLAN, "")
    assert samples_of(message).any()


def test_a_reply_sent_back_is_read_as_it_was_generated(client: Client) -> None:
    whole, separate, in_parts, bare, null = read_as(
        client,
        {"content": TAGGED},
        {"reasoning_content": PLAN, "content": CAPTION},
        {"reasoning_content": PLAN, "content": [{"type": "text", "text": CAPTION}]},
        {"content": CAPTION},
        {"reasoning_content": None, "content": CAPTION},
    )
    assert separate == in_parts == whole
    assert bare[0] < whole[0]
    assert null == bare


def test_a_reply_with_only_thinking_may_be_sent_back(client: Client) -> None:
    separate, tagged = read_as(
        client, {"reasoning_content": PLAN, "content": ""}, {"content": f"<think>{PLAN}</think>"}
    )
    assert separate == tagged


def test_an_earlier_answer_may_be_sent_back_with_or_without_its_plan(planned: Any, client: Client) -> None:
    audio = planned["audio"]
    bare, *others = read_as(
        client,
        {"audio": {"id": audio["id"]}},
        planned,
        {"audio": audio, "content": TAGGED},
        {"audio": audio, "content": CAPTION},
    )
    assert others == [bare] * 3


def test_a_plan_that_differs_from_the_kept_one_is_refused(planned: Any, client: Client) -> None:
    reply = {"role": "assistant", "audio": {"id": planned["audio"]["id"]}, "reasoning_content": "Another plan."}
    response = client.http.post("/v1/chat/completions", json={"messages": [FIRST, reply, THEN]})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "messages[1].reasoning_content"


def test_the_plan_and_transcript_of_an_expired_answer_are_used(client: Client) -> None:
    audio = {"id": "audio-none", "transcript": CAPTION}
    (*read, warnings), (*expected, _) = read_as(
        client, {"audio": audio, "reasoning_content": PLAN}, {"content": TAGGED}
    )
    assert read == expected
    assert "messages[1].audio.id" in [warning.split(":")[0] for warning in warnings]


def test_the_stock_client_reads_the_plan(client: Client) -> None:
    body = {"speechlm": {**GREEDY, "mode": "text_audio", "text": TAGGED}}
    with openai.OpenAI(base_url=client.http.base_url.join("/v1"), api_key="none", max_retries=0) as stock:
        answer = stock.chat.completions.create(model="speechlm", messages=[FIRST], extra_body=body)  # type: ignore[list-item]
    message = answer.choices[0].message
    assert message.content == CAPTION
    assert message.reasoning_content == PLAN  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def tokenizer(served_checkpoint: Path) -> TextTokenizer:
    return TextTokenizer.from_pretrained(served_checkpoint, SpeechLMConfig.from_pretrained(served_checkpoint))


@pytest.mark.parametrize("question", ["Say something.", "Good day.", "What is it?"])
def test_thinking_is_split_alike_in_complete_and_streamed_answers(
    question: str, client: Client, tokenizer: TextTokenizer
) -> None:
    """One of the answers of this small random model has a lone end tag."""
    body = {"messages": [{"role": "user", "content": question}], "speechlm": {**GREEDY, "return_ids": True}}
    with ThreadPoolExecutor() as threads:
        complete = threads.submit(client.chat, body)
        deltas = deltas_of(client.stream(body))
        message = message_of(complete.result())
    reasoning, content = split(tokenizer.decode(message["speechlm"]["text_ids"]), "lone")
    assert (message.get("reasoning_content"), message["content"]) == (reasoning, content)
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == (reasoning or "")
    assert "".join(delta.get("content", "") for delta in deltas) == content


def test_an_answer_cut_inside_thinking_has_no_content_but_is_spoken(client: Client, tokenizer: TextTokenizer) -> None:
    (think,) = tokenizer.encode("<think>")
    speechlm = {**GREEDY, "mode": "text_audio", "text_max_tokens": 6}
    deltas = deltas_of(client.stream({"messages": [FIRST], "logit_bias": {str(think): 100}, "speechlm": speechlm}))
    assert [delta["reasoning_content"] for delta in deltas if "reasoning_content" in delta] == ["<think>"] * 5
    assert "".join(delta.get("content", "") for delta in deltas) == ""
    assert [delta["audio"]["transcript"] for delta in deltas if "transcript" in delta.get("audio", {})] == [""]
    assert any(delta.get("audio", {}).get("data") for delta in deltas)


def test_thinking_stays_in_the_content_without_separate_reasoning(planned: Any, client: Client) -> None:
    speechlm = {**GREEDY, "return_ids": True, "mode": "text_audio", "text": TAGGED}
    message = message_of(client.chat({"messages": [FIRST], "separate_reasoning": False, "speechlm": speechlm}))
    assert (message["content"], message["audio"]["transcript"]) == (TAGGED, CAPTION)
    assert "reasoning_content" not in message
    assert message["speechlm"]["codes"] == planned["speechlm"]["codes"]
    sent_back, expected = read_as(client, message, planned)
    assert sent_back == expected


def test_a_script_keeps_the_plan_in_the_text(client: Client) -> None:
    @sgl.function
    def script(s: Any) -> None:
        s += sgl.user("Say something.")
        s += sgl.assistant(frontend.speak("voice", text=TAGGED, audio_max_frames=16))

    state = script.run(backend=frontend.SpeechLM(str(client.http.base_url)))
    assert state["voice"].text == TAGGED
    assert TAGGED in state.text()
