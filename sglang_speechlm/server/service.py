"""The service behind the routes, created once when the server starts."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from sglang_speechlm import metrics
from sglang_speechlm.codec import CodecService, Spawned
from sglang_speechlm.codec.files import FormatName, SoundFormat
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.options.server import OwnOptions
from sglang_speechlm.program.bounds import Bound
from sglang_speechlm.program.engine import Engine
from sglang_speechlm.program.reply import Reply, Responder
from sglang_speechlm.program.request import ReplyRequest
from sglang_speechlm.prompt.layout import Heard, Message, Prompt
from sglang_speechlm.prompt.templates import Template
from sglang_speechlm.server.edge.errors import ApiError, bad_field, shown
from sglang_speechlm.server.reading.messages import MessageReader
from sglang_speechlm.server.reading.resolve import resolve
from sglang_speechlm.server.reading.schema import CommonRequest
from sglang_speechlm.server.reading.store import AnswerStore
from sglang_speechlm.sglang_hooks.types import GlobalState
from sglang_speechlm.tokenizer import TextTokenizer

_ALWAYS_SERVED = ("speechlm-qwen3-8b", "speechlm", "bagpiper", "default")
"""Model names that every server accepts: the usage guide's, ESPnet's clients', and one for clients of one server."""


def longest(values: Mapping[str, str | None]) -> str:
    """Return the name of the longest value, which is at fault if all of them together are too long."""
    return max(values, key=lambda name: len(values[name] or ""))


class Service:
    """One served checkpoint.

    Attributes:
        config: its config.
        tokenizer: its tokenizer.
        responder: makes replies.
        model_name: the name in answers to requests without one.
        listed_names: the listed names, ``model_name`` first.
        context_length: context length in positions.
        started: start of serving, in seconds since the epoch.
        sample_rate: the codec's sample rate, in Hz.
        options: the operator's options.
        answers: spoken answers that messages may refer to.
        messages: reads messages.
        generating: SGLang's ids of the running requests to /generate, by the client's.
    """

    def __init__(self, state: GlobalState, options: OwnOptions, codec: Spawned | None) -> None:
        """Take SGLang's global state (its TokenizerManager and its scheduler's info)."""
        manager = state.tokenizer_manager
        path = Path(manager.model_path)
        self.config: SpeechLMConfig = manager.model_config.hf_config
        self.tokenizer = TextTokenizer.from_pretrained(manager.server_args.tokenizer_path, self.config)
        self._codec = CodecService(
            path, self.config, device=options.codec_device, threads=options.codec_threads, spawned=codec
        )
        engine = Engine(manager, state.scheduler_info["max_total_num_tokens"], self.config.num_stream)
        self.sample_rate = self.config.xcodec_sample_rate
        self.responder = Responder(engine, self.config.ids, self.tokenizer, self._codec, self.sample_rate)
        self.model_name = str(manager.served_model_name)
        self.listed_names = tuple(dict.fromkeys((self.model_name, *options.served_names, *options.aliases)))
        self.context_length: int = manager.model_config.context_len
        self.started = int(time.time())
        if manager.server_args.enable_metrics:
            metrics.enable()
        self.options = options
        self.generating: dict[str, list[str]] = {}
        self.answers = AnswerStore(options.max_kept_answers, options.max_kept_bytes)
        self.messages = MessageReader(
            self.config,
            self.tokenizer,
            options.preset,
            self.answers,
            options.media,
            engine.capacity(),
            options.max_clips,
            options.max_body_bytes,
        )
        self._names = {*self.listed_names, *options.other_names, manager.model_path, path.name, *_ALWAYS_SERVED}

    async def start(self) -> None:
        """Start the codec.

        Raises:
            CodecError: if it cannot be loaded.
        """
        await self._codec.start()

    async def stop(self) -> None:
        """End the codec process."""
        await self._codec.stop()

    def trouble(self) -> str | None:
        """Return why no sound can be made at present; None if all is well."""
        return self._codec.trouble()

    def check_model(self, name: str | None) -> None:
        """Check the name of the model in a request.

        Raises:
            ApiError: 404 if it is not a name of the served model.
        """
        if name and name.rstrip("/") not in self._names and not self.options.takes_any_model:
            raise ApiError(
                404,
                f"model: {shown(name)} is not served here; this server serves {self.model_name!r}",
                "model",
                code="model_not_found",
            )

    def output(self, name: FormatName, sample_rate: int | None) -> SoundFormat:
        """Return the output format for a format's name and an optional sample rate.

        By default, raw PCM, which states no rate, has the server's rate, and a file the codec's.

        Raises:
            ApiError: 400 if the format does not support this rate.
        """
        own = SoundFormat(name, self.sample_rate)
        output = SoundFormat(name, sample_rate or (self.options.output_sample_rate if own.is_raw else own.rate))
        try:
            output.check()
        except ValueError as error:
            raise bad_field("sample_rate", str(error)) from error
        return output

    def encode(self, text: str, field: str | None = None) -> list[int]:
        """Return the ids of a template's text; ``field`` is the one that it is from.

        Raises:
            ApiError: 400 if it is not valid text, or could never fit.
        """
        try:
            return self.tokenizer.encode(text, self.messages.capacity)
        except ValueError as error:
            raise (bad_field(field, str(error)) if field else ApiError(400, str(error))) from error

    def fill(self, template: Template, values: dict[str, str | None], clip: Heard | None = None) -> list[Message]:
        """Return the messages of a template with a request's fields in it.

        Raises:
            ApiError: 400 with the longest field if they could never fit.
        """
        return template.fill(values, partial(self.encode, field=longest(values)), clip)

    def resolve(
        self,
        body: CommonRequest,
        kind: str,
        prompt: Prompt,
        *,
        text_bound: Bound | None = None,
        spoken_ids: int | None = None,
        cfg: float = 1.0,
    ) -> ReplyRequest:
        """Return the request for one reply, with a new id that begins with ``kind``; otherwise as ``resolve``.

        Raises:
            ApiError: 400 if fields contradict each other or cannot be honoured.
        """
        request_id = f"{kind}-{uuid.uuid4().hex}"
        capacity = self.responder.engine.capacity()
        return resolve(body, request_id, prompt, self.config, self.tokenizer, capacity, text_bound, spoken_ids, cfg)

    def keep(self, audio_id: str, reply: Reply) -> int:
        """Keep a spoken answer for later messages; return when it expires, in seconds since the epoch."""
        ids = self.config.ids
        text_ids = reply.text_ids
        if text_ids and text_ids[-1] in (ids.eot, ids.eos):
            text_ids = text_ids[:-1]
        return self.answers.keep(audio_id, reply.text, text_ids, [] if reply.codes is None else reply.codes)
