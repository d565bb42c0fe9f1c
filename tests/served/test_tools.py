"""Tool calls have the form that OpenAI's clients expect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jsonschema  # type: ignore[import-untyped]
import openai
import pytest
from pydantic import BaseModel
from server import Client, Server, message_of
from server.stock import openai_client

from sglang_speechlm.prompt.tools import Function, instructions, result, spelled

QUESTION = "What is the weather like today?"
WEATHER = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Rome", "Oslo", "Lima"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "note": {"type": "string", "maxLength": 8},
    },
    "required": ["city", "days", "note"],
    "additionalProperties": False,
}
SWITCH = {"type": "object", "properties": {"on": {"type": "boolean"}}, "required": ["on"]}
DESCRIBED: list[dict[str, Any]] = [
    {"name": "get_weather", "description": "Tell the weather.", "parameters": WEATHER},
    {"name": "switch_light", "parameters": SWITCH},
]
TOOLS = [{"type": "function", "function": function} for function in DESCRIBED]
INSTRUCTIONS = instructions([Function(function["name"], {}, function) for function in DESCRIBED])
NAMED_TOOL = {"type": "function", "function": {"name": "switch_light"}}


@pytest.fixture
def client(metered: Server) -> Iterator[Client]:
    with Client(metered.url) as client:
        yield client


@pytest.fixture(scope="module")
def stock(metered: Server) -> Iterator[openai.OpenAI]:
    with openai_client(metered.url) as client:
        yield client


def tool_body(**fields: Any) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 300,
        "tools": TOOLS,
        "parallel_tool_calls": False,
        "seed": 5,
        "temperature": 1.0,
        **fields,
    }


def validated(call: Any) -> tuple[str, Any]:
    """Return the name and arguments of a call, validated by its schema."""
    assert call["type"] == "function"
    name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
    jsonschema.validate(arguments, {"get_weather": WEATHER, "switch_light": SWITCH}[name])
    return name, arguments


def test_a_required_call_is_made(client: Client) -> None:
    bodies = [tool_body(tool_choice="required", seed=seed, temperature=1.5, top_k=-1) for seed in range(4)]
    answers = client.chat_at_once(bodies)
    calls = []
    for answer in answers:
        message = message_of(answer)
        (call,) = message["tool_calls"]
        calls.append(validated(call))
        assert message["content"] is None
        assert answer["choices"][0]["finish_reason"] == "tool_calls"
    assert len({json.dumps(call) for call in calls}) > 1
    ids = [message_of(answer)["tool_calls"][0]["id"] for answer in answers]
    assert len(set(ids)) == len(ids)


def test_a_named_function_is_called(client: Client) -> None:
    names = {
        validated(message_of(answer)["tool_calls"][0])[0]
        for answer in client.chat_at_once(
            [tool_body(tool_choice=NAMED_TOOL, seed=seed, temperature=1.5) for seed in range(3)]
        )
    }
    assert names == {"switch_light"}


def test_parallel_calls_have_unique_ids(client: Client) -> None:
    unending = {"logit_bias": {"2": -100, "3": -100}, "max_tokens": 200}
    answer = client.chat(tool_body(tool_choice=NAMED_TOOL, parallel_tool_calls=True, **unending))
    assert answer["choices"][0]["finish_reason"] == "length"
    calls = message_of(answer)["tool_calls"]
    assert len(calls) > 2
    assert len({call["id"] for call in calls}) == len(calls)
    for call in calls[:-1]:
        validated(call)


def test_a_stream_of_calls_contains_the_complete_answer_in_pieces(client: Client, stock: openai.OpenAI) -> None:
    body = tool_body(tool_choice="required")
    with ThreadPoolExecutor() as threads:
        complete, streamed = threads.submit(client.chat, body), threads.submit(client.stream, body)
        with stock.chat.completions.stream(model="speechlm", **body) as stream:
            completion = stream.get_final_completion()
        whole, chunks = complete.result(), streamed.result()
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    pieces = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert [piece["index"] for piece in pieces] == [0] * len(pieces)
    assert "id" in pieces[0]
    assert len(pieces) > 3
    name, arguments = validated(message_of(whole)["tool_calls"][0])
    assert pieces[0]["function"]["name"] == name
    assert json.loads("".join(piece["function"]["arguments"] for piece in pieces)) == arguments
    assert completion.choices[0].finish_reason == "tool_calls"
    assert completion.choices[0].message.tool_calls is not None
    assert json.loads(completion.choices[0].message.tool_calls[0].function.arguments) == arguments


def test_the_stock_client_parses_arguments_into_a_class(stock: openai.OpenAI) -> None:
    class GetWeather(BaseModel):
        """Tell the weather."""

        city: Literal["Rome", "Oslo"]
        days: Literal["one", "two"] | None

    completion = stock.chat.completions.parse(
        model="speechlm",
        messages=[{"role": "user", "content": QUESTION}],
        tools=[openai.pydantic_function_tool(GetWeather)],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=300,
        seed=1,
    )
    (call,) = completion.choices[0].message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, GetWeather)


def test_optional_tools_are_instructions_in_the_system_turn(client: Client) -> None:
    fixed = {"temperature": 0, "speechlm": {"return_ids": True}}
    with_instructions = [{"role": "system", "content": INSTRUCTIONS}, {"role": "user", "content": QUESTION}]
    answer = client.chat(tool_body(**fixed))
    plain = client.chat({"messages": with_instructions, "max_tokens": 300, **fixed})
    assert message_of(answer)["speechlm"]["text_ids"] == message_of(plain)["speechlm"]["text_ids"]
    assert "tool_calls" not in message_of(answer)
    assert answer["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]


def test_the_tools_are_appended_to_the_system_turn(client: Client) -> None:
    system = {"role": "system", "content": "Be brief."}
    messages = [system, {"role": "user", "content": QUESTION}]
    answer = client.chat(tool_body(messages=messages, max_tokens=2))
    joined = {"role": "system", "content": f"Be brief.\n\n{INSTRUCTIONS}"}
    plain = client.chat({"messages": [joined, messages[1]], "max_tokens": 2})
    # The tokenization may differ where the two parts meet.
    assert abs(answer["usage"]["prompt_tokens"] - plain["usage"]["prompt_tokens"]) <= 1


def test_calls_are_not_spoken_but_a_text_without_calls_is(client: Client) -> None:
    spoken = {"modalities": ["text", "audio"], "audio": {"voice": "alloy", "format": "wav"}}
    speechlm = {"text_max_tokens": 20, "audio_max_frames": 20}
    called, without_calls = client.chat_at_once(
        [tool_body(tool_choice="required", **spoken), tool_body(max_tokens=120, speechlm=speechlm, **spoken)]
    )
    message = message_of(called)
    validated(message["tool_calls"][0])
    assert message["audio"] is None
    assert "speechlm" not in message
    assert called["usage"]["completion_tokens_details"]["audio_tokens"] == 0
    answer = message_of(without_calls)
    assert answer["audio"]["transcript"] == answer["content"]
    assert answer["audio"]["data"]


def test_calls_and_results_in_a_history_are_rendered_as_text(client: Client) -> None:
    arguments = '{"city": "Rome", "days": 2, "note": ""}'
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": arguments}}
    parts = [{"type": "text", "text": "It is "}, {"type": "text", "text": "raining."}]
    history = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": parts},
    ]
    written = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": spelled("get_weather", arguments)},
        {"role": "user", "content": result("It is raining.")},
    ]
    greedy = {"temperature": 0, "max_tokens": 20}
    answer, plain = (client.chat({"messages": messages, **greedy}) for messages in (history, written))
    assert message_of(answer) == message_of(plain)
    assert answer["usage"] == plain["usage"] | {"prompt_tokens_details": answer["usage"]["prompt_tokens_details"]}


def test_a_call_cut_by_max_tokens_is_returned_incomplete(client: Client) -> None:
    answer = client.chat(
        tool_body(tool_choice={"type": "function", "function": {"name": "get_weather"}}, max_tokens=50)
    )
    assert answer["choices"][0]["finish_reason"] == "length"
    (call,) = message_of(answer)["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    arguments = call["function"]["arguments"]
    assert arguments
    assert '{"city": "'.startswith(arguments[:10])
    with pytest.raises(json.JSONDecodeError):
        json.loads(arguments)


@pytest.mark.parametrize(
    ("field", "more"),
    [
        ("tools", {"speechlm": {"mode": "text_audio", "text": "Hello."}}),
        ("min_tokens", {"min_tokens": 5}),
        ("response_format", {"response_format": {"type": "json_object"}}),
    ],
)
def test_fields_that_conflict_with_calls_are_refused(field: str, more: dict[str, Any], client: Client) -> None:
    refused = client.http.post("/v1/chat/completions", json=tool_body(**more))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)
