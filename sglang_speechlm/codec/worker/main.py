"""The codec process: turns codes into samples, so that decoding tokens never waits for sound.

``sglang_speechlm.codec.process`` starts it with its end of a socket pair. It ends when the other end is closed or its
parent dies.
"""

from __future__ import annotations

import os
import select
import signal
import socket

import numpy as np
import torch
from setproctitle import setproctitle

from sglang_speechlm.codec.pcm import PcmStream
from sglang_speechlm.codec.protocol import (
    Close,
    CodecOptions,
    Delivered,
    End,
    Finish,
    MessageReader,
    Open,
    Piece,
    Push,
    Ready,
    Refused,
    Reply,
    Request,
    Slots,
    StartFailed,
    encode,
)
from sglang_speechlm.codec.wav import Samples
from sglang_speechlm.codec.worker.batching import SlotTable
from sglang_speechlm.codec.worker.xcodec import decoder_context, load_xcodec
from sglang_speechlm.process.gc import collect_garbage
from sglang_speechlm.process.heartbeat import Heartbeat
from sglang_speechlm.process.parent import end_with_parent

_RECEIVE_BYTES = 1 << 18


class Worker:
    """Serves streams over a socket until the socket is closed."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = MessageReader()

    def run(self) -> int:
        """Load the codec, serve, and return the exit status."""
        options = self._receive_options()
        if options is None:
            return 0
        torch.set_num_threads(options.threads)
        torch.backends.cudnn.allow_tf32 = False  # otherwise 1e-3 off the float32 decode
        try:
            self._model = load_xcodec(options.checkpoint, options.config, options.device)
        except Exception as error:
            self._send(StartFailed(f"{type(error).__name__}: {error}"))
            return 1
        os.nice(options.nice)  # not earlier: spoken answers wait while the codec is being restarted
        self._hop, self._rate = options.config.xcodec_hop_length, options.config.xcodec_sample_rate
        context = decoder_context(self._model)
        self._table = SlotTable(
            context,
            options.policy,
            options.config.num_stream,
            options.config.ids.codebook_size,
        )
        self._send(Ready(context))
        busy = False
        slots = 0
        while True:
            if select.select([self._connection], [], [], 0 if busy else None)[0]:
                data = self._connection.recv(_RECEIVE_BYTES)
                if not data:
                    return 0
                for message in self._reader.feed(data):
                    self._handle(message)
            busy = self._decode_batch(options.batch_codes)
            for stream, rest in self._table.pop_done():
                self._send_sound(stream, rest)
                self._send(End(stream))
            if len(self._table) != slots:
                slots = len(self._table)
                self._send(Slots(slots))

    def _receive_options(self) -> CodecOptions | None:
        while data := self._connection.recv(_RECEIVE_BYTES):
            for message in self._reader.feed(data):
                if isinstance(message, CodecOptions):
                    return message
        return None

    def _handle(self, message: Request | Reply) -> None:
        match message:
            case Open(stream, undelivered_limit, rate):
                pcm = None if rate is None else PcmStream(self._rate, rate)
                self._table.open(stream, undelivered_limit, pcm)
            case Push(stream) | Finish(stream) | Delivered(stream) | Close(stream) if stream not in self._table:
                pass  # the message was in transit when the stream ended
            case Push(stream, codes):
                try:
                    self._table.push(stream, codes)
                except ValueError as error:
                    self._table.close(stream)
                    self._send(Refused(stream, str(error)))
            case Finish(stream):
                self._table.finish(stream)
            case Delivered(stream):
                self._table.delivered(stream)
            case Close(stream):
                self._table.close(stream)

    @torch.inference_mode()
    def _decode_batch(self, code_limit: int) -> bool:
        """Decode one batch of windows and send its pieces; False if there was nothing to decode."""
        batch = self._table.next_batch(code_limit)
        if not batch:
            return False
        codes = torch.from_numpy(np.stack([codes for _, _, codes in batch])).to(self._model.device)
        audio = self._model.decode(codes.transpose(1, 2), return_dict=False)[:, 0].cpu().numpy()
        for (stream, window, _), samples in zip(batch, audio, strict=True):
            first, last = (self._hop * (edge - window.start) for edge in (window.emit_start, window.emit_stop))
            self._send_sound(stream, self._table.sound(stream, samples[first:last]))
        return True

    def _send_sound(self, stream: int, samples: Samples) -> None:
        if len(samples):
            self._send(Piece(stream, samples))

    def _send(self, message: Reply) -> None:
        self._connection.sendall(encode(message))


def main(connection: socket.socket, heartbeat: Heartbeat) -> int:
    """Serve ``connection`` until it is closed, and return the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides when to end
    end_with_parent(signal.SIGKILL)
    setproctitle(__name__)
    collect_garbage()
    heartbeat.beat_by_thread()
    with connection:
        try:
            return Worker(connection).run()
        except (BrokenPipeError, ConnectionResetError):
            return 0
