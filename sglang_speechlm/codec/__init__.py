"""Frames to sound: removes the delay, and runs Xcodec in a process of its own."""

from sglang_speechlm.codec.client import CodecService, CodecStats
from sglang_speechlm.codec.delay import Deinterleaver, interleave
from sglang_speechlm.codec.feed import FrameFeed
from sglang_speechlm.codec.process import Spawned, spawn
from sglang_speechlm.codec.stream import CodecError, CodecStream
from sglang_speechlm.codec.wav import Samples, encode_wav, to_pcm16
from sglang_speechlm.codec.windows import PiecePolicy

__all__ = [
    "CodecError",
    "CodecService",
    "CodecStats",
    "CodecStream",
    "Deinterleaver",
    "FrameFeed",
    "PiecePolicy",
    "Samples",
    "Spawned",
    "encode_wav",
    "interleave",
    "spawn",
    "to_pcm16",
]
