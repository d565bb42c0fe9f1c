"""A SpeechLM server as a backend of SGLang's frontend language."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any, NoReturn

import httpx
import openai
from sglang.lang.backend.base_backend import BaseBackend
from sglang.lang.ir import SglSamplingParams

from sglang_speechlm.frontend.conversation import TEMPLATE, Turn, turn_of
from sglang_speechlm.frontend.errors import SpeechLMError, surfacing
from sglang_speechlm.frontend.speech import Speaking, Speech

_SENT = {
    "max_new_tokens": "max_tokens", "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
    "frequency_penalty": "frequency_penalty", "presence_penalty": "presence_penalty", "stop": "stop",
    "stop_token_ids": "stop_token_ids", "n": "n",
}  # fmt: skip
"""Sampling parameters of the language, with the request's names for them."""

_UNSUPPORTED = (
    "min_new_tokens", "stop_regex", "ignore_eos", "return_logprob", "logprob_start_len", "top_logprobs_num",
    "return_text_in_logprobs", "json_schema", "dtype", "regex",
)  # fmt: skip

_WHOLE = {"separate_reasoning": False}
"""In later turns the model reads, and speaks from, a script's text, so thinking must stay in it."""

_CONNECT_SECONDS = 10

Generated = tuple[str | list[str], dict[str, Any]]
"""A backend's result for the language: the text (a list of texts for n > 1) and its metadata."""


class SpeechLM(BaseBackend):
    """A backend that runs ``sgl.gen`` and ``frontend.speak`` on a SpeechLM server.

    Each call is one chat request with the conversation so far: the server lays out the prompt, and its radix cache
    shares the common prefix of forks. Thread-safe.
    """

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """Connect to the server at ``url``, such as ``http://127.0.0.1:30000``, with its key if it has one.

        Raises:
            SpeechLMError: if no server answers, or it refuses the key.
        """
        super().__init__()
        self.chat_template = TEMPLATE
        self._url = url
        self._client = openai.OpenAI(
            base_url=f"{url.rstrip('/')}/v1",
            api_key=api_key or "none",
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
        )
        try:
            self._model = next(iter(self._client.models.list())).id
            info = self._client.get(f"{url.rstrip('/')}/server_info", cast_to=httpx.Response).json()
        except openai.APIError as error:
            raise self._clear(error) from error
        self._cfg: float = info["decoding"]["audio"]["cfg"]

    def get_model_name(self) -> str:
        """Return the name of the served model."""
        return self._model

    def generate(self, s: Any, sampling_params: SglSamplingParams) -> Generated:
        """Run ``sgl.gen`` or ``frontend.speak``; return the text or :class:`Speech`, and its metadata."""
        with surfacing(s):
            if isinstance(sampling_params.dtype, Speaking):
                return self._speak(turn_of(s), sampling_params.dtype, sampling_params)
            answer = self._answer(_writing(turn_of(s), sampling_params))
            texts = [choice["message"]["content"] for choice in answer["choices"]]
            return texts if sampling_params.n > 1 else texts[0], _facts(answer)

    def generate_stream(self, s: Any, sampling_params: SglSamplingParams) -> Iterator[Generated]:
        """Do the same for programs that run with ``stream=True``; a speech arrives as a whole."""
        if isinstance(spoken := sampling_params.dtype, Speaking):
            speech, facts = self.generate(s, sampling_params)
            yield speech, facts
            s.variables[spoken.name] = speech  # the language has turned it into a plain str by concatenation
            return
        with surfacing(s):
            yield from self._text_deltas(_writing(turn_of(s), sampling_params))

    def select(self, s: Any, choices: list[str], temperature: float, choices_method: Any = None) -> NoReturn:
        """Refuse: this backend does not offer it.

        Raises:
            SpeechLMError: always.
        """
        with surfacing(s):
            raise SpeechLMError(
                "sgl.select: not supported by this backend; use sgl.RuntimeEndpoint with the same server"
            )

    def _speak(self, turn: Turn, spoken: Speaking, params: SglSamplingParams) -> tuple[Speech, dict[str, Any]]:
        text = spoken.text if spoken.text is not None else turn.text
        settings = {"mode": "text_audio", "return_ids": True, "cfg": self._cfg, **spoken.settings}
        if text:
            request: dict[str, Any] = {"messages": turn.messages, "speechlm": {**settings, "text": text}}
        elif turn.is_open:
            request = _writing(turn, params, excluded=("dtype",))
            # These apply to the text only; at the top level they would apply to the audio, too.
            writing = {"text_max_tokens": "max_tokens", "text_temperature": "temperature", "text_top_k": "top_k"}
            for field, name in writing.items():
                settings[field] = request.pop(name)
            request |= {"n": 1, "speechlm": settings}
        else:
            raise SpeechLMError("frontend.speak: the assistant's turn is empty: nothing to speak")
        answer = self._answer(request)
        (choice,) = answer["choices"]
        message = choice["message"]
        if message["audio"] is None:
            raise SpeechLMError("frontend.speak: " + "; ".join(message["speechlm"]["warnings"]))
        speech = Speech(
            message["content"] if turn.is_open and not turn.text else "",
            wav=base64.b64decode(message["audio"]["data"]),
            sample_rate=message["audio"]["sample_rate"],
            codes=message["speechlm"]["codes"],
            text=message["content"],
            cached_tokens=message["speechlm"]["cached_tokens"],
            finish_reason=choice["finish_reason"],
        )
        return speech, _facts(answer)

    def _answer(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            response = self._client.post("/chat/completions", body={**request, **_WHOLE}, cast_to=httpx.Response)
            return response.json()
        except openai.APIError as error:
            raise self._clear(error) from error

    def _text_deltas(self, request: dict[str, Any]) -> Iterator[Generated]:
        messages = request.pop("messages")
        try:
            chunks = self._client.chat.completions.create(
                model=self._model, messages=messages, stream=True, extra_body={**request, **_WHOLE}
            )
            for chunk in chunks:
                for choice in chunk.choices:
                    yield choice.delta.content or "", {"finish_reason": choice.finish_reason}
        except openai.APIError as error:
            raise self._clear(error) from error

    def _clear(self, error: openai.APIError) -> SpeechLMError:
        if not isinstance(error, openai.APIStatusError):
            return SpeechLMError(f"{self._url}: {error.message} {error.__cause__ or ''}".rstrip())
        message = error.body.get("message") if isinstance(error.body, dict) else None
        return SpeechLMError(f"{self._url}: {error.status_code}: {message or error.message}", error.status_code)


def _writing(turn: Turn, params: SglSamplingParams, excluded: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the chat request of an ``sgl.gen``.

    Raises:
        SpeechLMError: if it does not begin the assistant's turn, or uses a parameter that is not supported.
    """
    if not turn.is_open or turn.text:
        raise SpeechLMError(
            "sgl.gen: must come first inside sgl.assistant(...), because the model writes a whole reply"
        )
    for name in _UNSUPPORTED:
        if name not in excluded and (value := getattr(params, name)):
            raise SpeechLMError(f"sgl.gen: {name} is not supported by this backend; got {value!r}")
    values = {field: getattr(params, name) for name, field in _SENT.items()}
    return {"messages": turn.messages, **{name: value for name, value in values.items() if value not in ([], ())}}


def _facts(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata for ``s.get_meta_info``: of all choices together, and each choice's end."""
    usage, choices = answer["usage"], answer["choices"]
    ends = [choice["finish_reason"] for choice in choices]
    extras = [choice["message"].get("speechlm", {}) for choice in choices]
    return {
        "id": answer["id"],
        "finish_reason": ends if len(ends) > 1 else ends[0],
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
        "warnings": [warning for extra in extras for warning in extra.get("warnings", ())],
    }
