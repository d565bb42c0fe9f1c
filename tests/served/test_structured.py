"""Structured answers follow their schema, and do not change other answers in the batch."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import openai
import torch
import xgrammar
from pydantic import BaseModel
from reference.decoder import Context
from reference.prompt import control
from server import BY_NAME, CASES, Client, Judge, Server, message_of

from sglang_speechlm.sglang_hooks.grammar import compiled_schema, json_vocabulary, vocabulary
from sglang_speechlm.tokenizer import TextTokenizer

ANSWER = {
    "type": "object",
    "properties": {
        "mood": {"enum": ["calm", "glad", "cross"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 400},
        "words": {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 1, "maxItems": 3},
        "sure": {"type": "boolean"},
    },
    "required": ["mood", "count", "words", "sure"],
    "additionalProperties": False,
}


def structured_body(schema: dict[str, Any] = ANSWER, **fields: Any) -> dict[str, Any]:
    json_schema = {"name": "answer", "strict": True, "schema": schema}
    messages = [{"role": "user", "content": "What did you hear?"}]
    return {
        "messages": messages,
        "max_tokens": 400,
        "response_format": {"type": "json_schema", "json_schema": json_schema},
        "speechlm": {"return_ids": True},
        **fields,
    }


def parsed(response: Any) -> Any:
    assert response["choices"][0]["finish_reason"] == "stop"
    value = json.loads(message_of(response)["content"])
    jsonschema.validate(value, ANSWER)
    return value


def test_structured_answers_follow_their_schema_and_leave_others_exact(client: Client, judge: Judge) -> None:
    plain = CASES[:8]
    structured = [structured_body(seed=seed, temperature=1.5, top_k=-1) for seed in range(4)]
    client.clear_cache()
    bodies = [body for pair in zip([case.body() for case in plain[:4]], structured, strict=True) for body in pair]
    responses = client.chat_at_once([*bodies, *(case.body() for case in plain[4:])])
    assert len({json.dumps(parsed(response)) for response in responses[1:8:2]}) == 4
    assert judge.compare(plain, [*responses[0:8:2], *responses[8:]]) > 500


def test_a_greedy_structured_answer_equals_the_reference(client: Client, judge: Judge, served_checkpoint: Path) -> None:
    reference, ids = judge.reference, judge.reference.ids
    tokenizer = TextTokenizer.from_pretrained(served_checkpoint, reference.config)
    words = json_vocabulary(vocabulary(tokenizer, reference.config))
    info = xgrammar.TokenizerInfo(words, vocab_size=len(words), stop_token_ids=[ids.eot, ids.eos])
    compiled = compiled_schema(xgrammar.GrammarCompiler(info), json.dumps(ANSWER))
    matcher = xgrammar.GrammarMatcher(compiled)
    allowed = xgrammar.allocate_token_bitmask(1, len(words))
    case = BY_NAME["text"]
    with torch.inference_mode():
        rows = [*reference.prompt(case.request.messages), control(ids.text, ids)]
        context = Context(reference)
        hidden = context.feed(rows)[-1]
        expected: list[int] = []
        while not matcher.is_terminated():
            logits = torch.full((1, len(words)), -torch.inf)
            logits[0, reference.text_candidates] = reference.text_logits(hidden, len(expected))
            matcher.fill_next_token_bitmask(allowed)
            xgrammar.apply_token_bitmask_inplace(logits, allowed)
            expected.append(int(logits.argmax()))
            assert matcher.accept_token(expected[-1])
            hidden = context.feed([control(expected[-1], ids)])[-1]
    response = client.chat(structured_body(messages=case.body()["messages"], temperature=0))
    assert message_of(response)["speechlm"]["text_ids"] == expected
    parsed(response)


def test_the_text_of_a_spoken_answer_may_be_structured(client: Client) -> None:
    response = client.chat(structured_body(modalities=["text", "audio"], temperature=0, max_tokens=1000))
    message = message_of(response)
    jsonschema.validate(json.loads(message["content"]), ANSWER)
    assert message["audio"]["transcript"] == message["content"]
    assert message["audio"]["data"]


def test_a_stream_contains_the_complete_answer_in_pieces(client: Client) -> None:
    body = structured_body(seed=7, temperature=1.0)
    with ThreadPoolExecutor() as threads:
        complete = threads.submit(client.chat, body)
        pieces = [choice["delta"].get("content") or "" for chunk in client.stream(body) for choice in chunk["choices"]]
        assert "".join(pieces) == message_of(complete.result())["content"]


def test_structured_answers_survive_retraction(metered: Server, server: Server) -> None:
    with Client(metered.url) as client:
        bodies = [structured_body(seed=seed, temperature=1.0) for seed in range(4)]
        before = metered.output().count("#retracted_reqs")
        values = [parsed(response) for response in client.chat_at_once(bodies)]
        assert metered.output().count("#retracted_reqs") > before
    with Client(server.url) as client:
        assert values == [parsed(response) for response in client.chat_at_once(bodies)]


def test_a_json_object_begins_with_a_brace(client: Client) -> None:
    response = client.chat(structured_body(response_format={"type": "json_object"}, max_tokens=60))
    content = message_of(response)["content"]
    assert content.startswith("{")
    if response["choices"][0]["finish_reason"] == "stop":
        assert isinstance(json.loads(content), dict)


def test_a_stop_string_within_the_json_gets_a_warning(client: Client) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"enum": ["x}y"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
    message = message_of(client.chat(structured_body(schema, stop="}")))
    assert message["content"] == '{"a": "x'
    assert message["speechlm"]["warnings"] == ["the text was cut at a stop string, so its JSON may be incomplete"]


def test_an_unsupported_schema_is_refused_with_its_path(client: Client) -> None:
    answer = client.http.post("/v1/chat/completions", json=structured_body({"type": "string", "pattern": "a.b"}))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "response_format.json_schema.schema.pattern"


def test_a_recursive_schema_is_supported(client: Client) -> None:
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}},
        "required": ["next"],
        "additionalProperties": False,
    }
    response = client.chat(
        structured_body({"$defs": {"node": node}, "$ref": "#/$defs/node"}, seed=1, temperature=1.5, top_k=-1)
    )
    if response["choices"][0]["finish_reason"] == "stop":
        jsonschema.validate(json.loads(message_of(response)["content"]), {"$defs": {"node": node}, **node})


def test_the_stock_client_parses_an_answer_into_a_class(server: Server) -> None:
    class Answer(BaseModel):
        sure: bool
        count: int | None

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", http_client=httpx.Client()) as stock:
        completion = stock.chat.completions.parse(
            model="speechlm",
            messages=[{"role": "user", "content": "How many?"}],
            response_format=Answer,
            max_tokens=300,
            seed=3,
        )
    assert isinstance(completion.choices[0].message.parsed, Answer)
