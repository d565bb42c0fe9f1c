"""One reply: the program's events, with the text decoded and the frames turned into sound as they arrive."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from sglang_speechlm import logs, metrics
from sglang_speechlm.codec import CodecService, CodecStream, FrameFeed, Samples
from sglang_speechlm.config import Ids
from sglang_speechlm.metrics import Mode, ReplyWatch
from sglang_speechlm.program.answer import AudioEnd, AudioPiece, Event, Finish, TextEnd, TextPiece, answer
from sglang_speechlm.program.engine import Engine, StageRefused
from sglang_speechlm.program.request import ReplyRequest
from sglang_speechlm.prompt.thinking import Split, ThinkingSplitter
from sglang_speechlm.prompt.tools import CallDelta, CallSplitter
from sglang_speechlm.tokenizer import TextTokenizer


@dataclass(frozen=True)
class ReasoningDelta:
    """More of the model's thinking."""

    text: str


@dataclass(frozen=True)
class TextDelta:
    """More of the text, without thinking."""

    text: str


@dataclass(frozen=True)
class AudioDelta:
    """More of the sound: samples [n]."""

    samples: Samples


Piece = ReasoningDelta | TextDelta | CallDelta | AudioDelta


@dataclass
class Call:
    """A call of a function, whose ``arguments`` are JSON."""

    name: str
    arguments: str = ""


@dataclass(frozen=True)
class Responder:
    """Makes replies.

    Attributes:
        engine: runs the stages.
        ids: the id space.
        tokenizer: decodes the text.
        codec: turns codes into sound.
        sample_rate: of the codec, in Hz.
    """

    engine: Engine
    ids: Ids
    tokenizer: TextTokenizer
    codec: CodecService
    sample_rate: int

    def reply(self, request: ReplyRequest, rate: int | None = None) -> Reply:
        """Return the reply to a request. Nothing runs before its first piece is awaited.

        Args:
            request: the request.
            rate: in Hz; its sound is 16-bit PCM at this rate. None for float samples at the codec's rate.
        """
        return Reply(self, request, rate)


class Pieces(ABC):
    """An iterator over the pieces of text and sound that ``_run`` yields. Closing it ends everything it has started."""

    def __init__(self) -> None:
        self._pieces = self._run()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        """End everything that runs for it."""
        await self._pieces.aclose()

    @abstractmethod
    def _run(self) -> AsyncGenerator[Piece]: ...


class Reply(Pieces):
    """One reply: an iterator over its pieces, complete when it is exhausted.

    Iterating raises:
        StageRefused: if SGLang refuses or aborts a stage.
        CodecError: if the sound could not be made.

    Attributes:
        request: the request.
        text: the whole text, including thinking, without end markers.
        split: the text so far without calls, with thinking separated.
        calls: the text's calls of functions so far; an answer with calls is not spoken.
        text_ids: ids as generated or given, including the closing eot or eos.
        codes: int64 [T, num_stream] code indices with the delay removed; None for a text reply.
        cached_tokens: by stage, prompt positions that the radix cache held.
        has_begun: whether an id or a frame has been generated, which a retry would generate again.
    """

    def __init__(self, responder: Responder, request: ReplyRequest, rate: int | None) -> None:
        super().__init__()
        self.request = request
        self.text = ""
        self.split = Split()
        self.calls: list[Call] = []
        self.text_ids: list[int] = []
        self.codes: npt.NDArray[np.int64] | None = None
        self.cached_tokens: dict[str, int] = {}
        self.has_begun = False
        self._finish: Finish | None = None
        self._responder = responder
        self._rate = rate

    @property
    def has_ended(self) -> bool:
        """Whether it has ended; pieces of its sound may still follow."""
        return self._finish is not None

    @property
    def finish(self) -> Finish:
        """How it ended. Only available after its end."""
        assert self._finish is not None, "the reply has not ended"
        return self._finish

    async def _run(self) -> AsyncGenerator[Piece]:
        request, responder = self.request, self._responder
        watch = ReplyWatch(_mode(request), StageRefused)
        metrics.CLIPS.add(len(request.prompt.audio))
        with _logged(self, watch), watch:
            if request.audio is not None:
                responder.codec.check()
            pieces = () if request.audio is None else responder.codec.piece_frames
            async with aclosing(answer(responder.engine, responder.ids, request, pieces)) as events:
                async with aclosing(self._write(events)) as deltas:
                    async for delta in deltas:
                        if request.given_text is None:
                            watch.wrote()
                        yield delta
                watch.text_ended()
                if request.audio is not None and not self.calls:
                    async with aclosing(self._speak(events, watch)) as sound:  # closed first: it reads the events
                        async for samples in sound:
                            watch.sounded(len(samples) / (self._rate or responder.sample_rate))
                            yield AudioDelta(samples)
            watch.finish_reason = None if self._finish is None else self._finish.reason

    async def _write(self, events: AsyncGenerator[Event]) -> AsyncGenerator[ReasoningDelta | TextDelta | CallDelta]:
        """Yield the text's deltas, up to its end."""
        stream = self._responder.tokenizer.stream()
        splitter = ThinkingSplitter(self.request.reasoning)
        calls = None if self.request.text.calls is None else CallSplitter()
        given = self.request.given_text
        decoded = ""
        async for event in events:
            match event:
                case TextPiece(ids, stopped_by):
                    self.text_ids.extend(ids)
                    self.has_begun = self.has_begun or given is None
                    decoded = given.text if given is not None else decoded + stream.push(ids)
                    if stopped_by is not None:
                        # SGLang holds back what may become a stop string, so it begins here at the earliest. SGLang may
                        # also match it against broken characters that this text does not contain.
                        at = decoded.find(stopped_by, max(0, len(self.text) - len(stopped_by)))
                        decoded = decoded if at < 0 else decoded[:at]
                case TextEnd(cached_tokens):
                    self.cached_tokens["text"] = cached_tokens
                    decoded += stream.flush()
            piece = splitter.push(decoded[len(self.text) :])
            if isinstance(event, TextEnd):
                piece = piece.then(splitter.flush())
            parts: list[str | CallDelta] = [piece.content] if calls is None else [*calls.push(piece.content)]
            if calls is not None and isinstance(event, TextEnd):
                parts += calls.flush()
            written = "".join(part for part in parts if isinstance(part, str))
            self.text, self.split = decoded, self.split.then(Split(piece.reasoning, written))
            if piece.reasoning:
                yield ReasoningDelta(piece.reasoning)
            for part in parts:
                if isinstance(part, CallDelta):
                    self._called(part)
                    yield part
                elif part:
                    yield TextDelta(part)
            if isinstance(event, TextEnd):
                self._finish = event.finish if self.request.audio is None or self.calls else None
                return

    def _called(self, delta: CallDelta) -> None:
        if delta.name is not None:
            self.calls.append(Call(delta.name))
        self.calls[delta.index].arguments += delta.arguments

    async def _speak(self, events: AsyncGenerator[Event], watch: ReplyWatch) -> AsyncGenerator[Samples]:
        """Yield the sound's pieces, up to the reply's end. Frames are fed to the codec even if nobody reads them."""
        async with self._responder.codec.open_stream(self._rate) as stream:
            feeding = asyncio.create_task(self._feed(events, watch, stream))
            try:
                async for samples in stream:
                    yield samples
                await feeding
            finally:
                feeding.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await feeding

    async def _feed(self, events: AsyncGenerator[Event], watch: ReplyWatch, stream: CodecStream) -> None:
        feed = FrameFeed(stream, self._responder.ids)
        try:
            async for event in events:
                match event:
                    case AudioPiece(frames):
                        self.has_begun = True
                        watch.decoded(len(frames))
                        await feed.push(frames)
                    case AudioEnd(cached_tokens, unconditional):
                        self.codes = feed.codes()
                        self.cached_tokens["audio"] = cached_tokens
                        if unconditional is not None:
                            self.cached_tokens["audio_unconditional"] = unconditional
                    case Finish():
                        self._finish = event
        finally:
            stream.finish()


def _mode(request: ReplyRequest) -> Mode:
    if request.audio is None:
        return "text"
    return "guided" if request.is_guided else "spoken"


@contextlib.contextmanager
def _logged(reply: Reply, watch: ReplyWatch) -> Iterator[None]:
    """Add kind, counts and end of a reply to the log line of its HTTP request."""
    request = reply.request
    try:
        yield
    finally:
        if (entry := logs.current()) is not None:
            entry.replies.append(
                {
                    "id": request.id,
                    "kind": _mode(request),
                    "heard": request.prompt.audio_positions > 0,
                    "prompt_tokens": len(request.prompt.ids) + 1,
                    "cached_tokens": reply.cached_tokens.get("text", 0),
                    "text_tokens": len(reply.text_ids),
                    "frames": watch.frames,
                    "finish_reason": watch.finish_reason,
                }
            )
