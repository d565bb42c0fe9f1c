"""One reply: the program's events with the text decoded and the frames turned into sound as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from sglang_speechlm import logs, metrics
from sglang_speechlm.codec import CodecService, CodecStream, Deinterleaver
from sglang_speechlm.config import Ids
from sglang_speechlm.metrics import Mode, ReplyWatch
from sglang_speechlm.program.answer import AudioEnd, AudioPiece, Event, Finish, TextEnd, TextPiece, answer
from sglang_speechlm.program.engine import Engine, StageRefused
from sglang_speechlm.program.request import Request
from sglang_speechlm.prompt.thinking import Split, ThinkingSplitter
from sglang_speechlm.tokenizer import TextTokenizer


@dataclass
class Reply:
    """A reply as far as it has come; complete when the iteration over its pieces has ended.

    Attributes:
        text: whole, thinking included, without what only marks its end.
        split: the text as far as it was given, thinking apart.
        text_ids: as generated or given, the closing eot or eos included.
        codes: [T][num_stream] code indices with the delay removed; None for a reply that is only written.
        cached_tokens: by stage, positions of its prompt that the radix cache held.
        finish: the end, once it has come.
    """

    text: str = ""
    split: Split = field(default_factory=Split)
    text_ids: list[int] = field(default_factory=list)
    codes: list[list[int]] | None = None
    cached_tokens: dict[str, int] = field(default_factory=dict)
    finish: Finish | None = None


@dataclass(frozen=True)
class ReasoningDelta:
    """More of what the model thinks before it answers."""

    text: str


@dataclass(frozen=True)
class TextDelta:
    """More of the text, thinking left out."""

    text: str


@dataclass(frozen=True)
class AudioDelta:
    """More of the sound: float32 samples [n]."""

    samples: npt.NDArray[np.float32]


Piece = ReasoningDelta | TextDelta | AudioDelta


@dataclass(frozen=True)
class Voice:
    """What a reply is made with.

    Attributes:
        engine: runs the stages.
        ids: the id space.
        tokenizer: decodes the text.
        codec: turns codes into sound.
        sample_rate: of the sound, in Hz.
    """

    engine: Engine
    ids: Ids
    tokenizer: TextTokenizer
    codec: CodecService
    sample_rate: int

    async def reply(self, request: Request, reply: Reply) -> AsyncGenerator[Piece]:
        """Give the pieces of one reply and keep what they come to in ``reply``. Closing the iterator ends it all.

        Raises:
            StageRefused: if SGLang refuses or aborts a stage.
            CodecError: if the sound could not be made.
        """
        watch = ReplyWatch(_mode(request), StageRefused)
        metrics.CLIPS.add(len(request.prompt.audio))
        with _logged(request, reply, watch), watch:
            if request.audio is not None:
                self.codec.check()
            async with aclosing(answer(self.engine, self.ids, request)) as events:
                async for delta in self._write(events, reply, request):
                    if request.given_text is None:
                        watch.wrote()
                    yield delta
                watch.text_ended()
                if request.audio is not None:
                    async for samples in self._speak(events, reply, watch):
                        watch.sounded(len(samples) / self.sample_rate)
                        yield AudioDelta(samples)
                else:
                    async for event in events:
                        assert isinstance(event, Finish)
                        reply.finish = event
            watch.finish_reason = reply.finish.reason if reply.finish is not None else None

    async def _write(
        self, events: AsyncGenerator[Event], reply: Reply, request: Request
    ) -> AsyncGenerator[ReasoningDelta | TextDelta]:
        """The text's deltas, up to its end."""
        stream = self.tokenizer.stream()
        splitter = ThinkingSplitter(request.reasoning)
        given = request.given_text
        decoded = ""
        async for event in events:
            match event:
                case TextPiece(ids, stopped_by):
                    reply.text_ids.extend(ids)
                    decoded = given.text if given is not None else decoded + stream.push(ids)
                    if stopped_by is not None:
                        # SGLang holds back what may become a stop string, so it begins here at the earliest. Its own
                        # decoding also shows broken characters, which a stop string may match and this text not hold.
                        at = decoded.find(stopped_by, max(0, len(reply.text) - len(stopped_by)))
                        decoded = decoded if at < 0 else decoded[:at]
                case TextEnd(cached_tokens):
                    reply.cached_tokens["text"] = cached_tokens
                    decoded += stream.flush()
            piece = splitter.push(decoded[len(reply.text) :])
            if isinstance(event, TextEnd):
                piece = piece.then(splitter.flush())
            reply.text, reply.split = decoded, reply.split.then(piece)
            if piece.reasoning:
                yield ReasoningDelta(piece.reasoning)
            if piece.content:
                yield TextDelta(piece.content)
            if isinstance(event, TextEnd):
                return

    async def _speak(
        self, events: AsyncGenerator[Event], reply: Reply, watch: ReplyWatch
    ) -> AsyncGenerator[npt.NDArray[np.float32]]:
        """The sound's pieces, up to the reply's end. Frames go to the codec whether or not anybody reads."""
        async with self.codec.open_stream() as stream:
            feeding = asyncio.create_task(self._feed(events, reply, watch, stream))
            try:
                async for samples in stream:
                    yield samples
                await feeding
            finally:
                feeding.cancel()
                with contextlib.suppress(asyncio.CancelledError, Exception):
                    await feeding

    async def _feed(self, events: AsyncGenerator[Event], reply: Reply, watch: ReplyWatch, stream: CodecStream) -> None:
        undelayed = Deinterleaver(self.ids)
        codes_so_far: list[list[int]] = []
        try:
            async for event in events:
                match event:
                    case AudioPiece(frames):
                        watch.decoded(len(frames))
                        codes = undelayed.push(np.asarray(frames, dtype=np.int64))
                        codes_so_far.extend(codes.tolist())
                        await stream.push(codes)
                    case AudioEnd(cached_tokens, unconditional):
                        reply.codes = codes_so_far
                        reply.cached_tokens["audio"] = cached_tokens
                        if unconditional is not None:
                            reply.cached_tokens["audio_unconditional"] = unconditional
                    case Finish():
                        reply.finish = event
        finally:
            stream.finish()


def _mode(request: Request) -> Mode:
    if request.audio is None:
        return "text"
    return "guided" if request.is_guided else "spoken"


@contextlib.contextmanager
def _logged(request: Request, reply: Reply, watch: ReplyWatch) -> Iterator[None]:
    """Leave kind, counts and end of a reply to the line of its HTTP request."""
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
