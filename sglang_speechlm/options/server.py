"""SpeechLM's own options of the launcher."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sglang_speechlm.audio.fetch import AllowedMedia, parse_hosts
from sglang_speechlm.codec.files import HIGHEST_RATE, LOWEST_RATE, OPENAI_RATE
from sglang_speechlm.options.shared import (
    MEBIBYTE,
    SharedOptions,
    add_shared_options,
    complaining,
    count,
    count_or_zero,
    named,
    named_path,
    positive,
    shared_values,
)
from sglang_speechlm.prompt import thinking, tools
from sglang_speechlm.prompt.presets import BUILT_IN, Preset, load_preset, load_template, load_voices
from sglang_speechlm.prompt.templates import SpeechTemplate, TranscriptionTemplate

Value = TypeVar("Value")


@dataclass(frozen=True)
class OwnOptions(SharedOptions):
    """The operator's options of a server.

    Attributes:
        served_names: names of the model; answers to requests without one use the first. Empty means the name of
            --model-path.
        aliases: further names that requests may use; they are listed after the served ones.
        takes_any_model: whether requests may name any model.
        other_names: names that requests may use but that are not listed.
        codec_device: where the codec process runs; "auto" means a GPU if there is one, else the CPU.
        codec_threads: CPU threads of the codec process.
        output_sample_rate: default rate of raw PCM, in Hz.
        preset: the checkpoint's preset.
        media: allowed sources of clips by URL.
        max_clips: maximum clips in one request.
        max_kept_answers, max_kept_bytes: limits of the store of spoken answers.
    """

    served_names: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    takes_any_model: bool = False
    other_names: tuple[str, ...] = ()
    codec_device: str = "auto"
    codec_threads: int = 1
    output_sample_rate: int = OPENAI_RATE
    preset: Preset = field(default_factory=partial(load_preset, "default"))
    media: AllowedMedia = field(default_factory=AllowedMedia)
    max_clips: int = 16
    max_kept_answers: int = 10_000
    max_kept_bytes: int = 128 * MEBIBYTE

    @classmethod
    def of(cls, parsed: argparse.Namespace) -> OwnOptions:
        """Read the options that a parser with ``add_own_options`` found.

        Raises:
            ValueError: if there is no such preset, or it has no place for the given voices.
        """
        preset = load_preset(parsed.preset, Path(parsed.model_path))
        overriding = {
            "speech": parsed.speech_template,
            "transcription": parsed.transcription_template,
            "reasoning": thinking.PARSERS.get(parsed.reasoning_parser),
            "tools": tools.PARSERS.get(parsed.tool_call_parser),
        }
        preset = preset.model_copy(update={name: own for name, own in overriding.items() if own is not None})
        return cls(
            served_names=tuple(parsed.served_model_name),
            aliases=tuple(parsed.model_alias),
            takes_any_model=parsed.any_model,
            codec_device=parsed.codec_device,
            codec_threads=parsed.codec_threads,
            output_sample_rate=parsed.output_sample_rate,
            preset=preset if parsed.voices is None else preset.with_voices(parsed.voices),
            media=AllowedMedia(parsed.allowed_media_domains, parsed.allowed_media_path),
            max_clips=parsed.max_clips,
            max_kept_answers=parsed.max_kept_answers,
            max_kept_bytes=round(parsed.max_kept_mib * MEBIBYTE),
            **shared_values(parsed),
        )


def add_own_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the options of ``OwnOptions``."""
    own = OwnOptions()

    def add(name: str, kind: Callable[[str], Any], default: Any, help_text: str, **more: Any) -> None:
        parser.add_argument(name, type=kind, default=default, help=help_text, **more)

    help_text = "names that requests may use for the model; answers use the first (default: from --model-path)"
    add("--served-model-name", named, own.served_names, help_text, nargs="+", metavar="NAME")
    help_text = (
        "further names that requests may use for the model, such as tts-1 or gpt-4o-audio-preview; all are listed"
    )
    add("--model-alias", named, own.aliases, help_text, nargs="+", metavar="NAME")
    help_text = "accept any model name in requests, for applications whose names cannot be changed"
    parser.add_argument("--any-model", action="store_true", help=help_text)
    help_text = "torch device of the codec process (default: %(default)s: a GPU if there is one)"
    add("--codec-device", str, own.codec_device, help_text, metavar="DEVICE")
    help_text = "CPU threads of the codec process (default: %(default)s)"
    add("--codec-threads", count, own.codec_threads, help_text, metavar="N")
    help_text = (
        "sample rate in Hz of raw PCM unless a request sets one (default: %(default)s); files have the codec's rate"
    )
    add("--output-sample-rate", _rate, own.output_sample_rate, help_text, metavar="HZ")
    help_text = f"prompt preset: {', '.join(BUILT_IN)}, or a file (default: the checkpoint's preset.json, else default)"
    add("--preset", str, None, help_text, metavar="NAME|FILE")
    kinds: tuple[tuple[str, type[Any]], ...] = (("speech", SpeechTemplate), ("transcription", TranscriptionTemplate))
    for route, kind in kinds:
        help_text = f"prompt template for a {route}, instead of the preset's"
        add(f"--{route}-template", _from_path(partial(load_template, kind)), None, help_text, metavar="FILE")
    help_text = "JSON file of additional voices (name: description), for a checkpoint that follows descriptions"
    add("--voices", _from_path(load_voices), None, help_text, metavar="FILE")
    help_text = "how thinking is marked in a text, instead of the preset's reasoning (default: auto, the preset's)"
    add("--reasoning-parser", str, "auto", help_text, choices=("auto", *thinking.PARSERS))
    help_text = "how a text calls functions, instead of the preset's tools (default: auto, the preset's)"
    add("--tool-call-parser", str, "auto", help_text, choices=("auto", *tools.PARSERS))
    add(
        "--allowed-media-domains",
        complaining(parse_hosts),
        own.media.hosts,
        "hosts that http: and https: URLs in audio_url parts may name (default: none); a private address must be "
        "listed itself",
        metavar="HOST[:PORT],...",
    )
    help_text = "directory whose files file: URLs in audio_url parts may name (default: none)"
    add("--allowed-media-path", _from_path(_directory), None, help_text, metavar="DIR")
    add_shared_options(parser)
    add("--max-clips", count, own.max_clips, "maximum audio clips per request (default: %(default)s)", metavar="N")
    help_text = "maximum spoken answers kept for later messages to refer to, for an hour (default: %(default)s)"
    add("--max-kept-answers", count_or_zero, own.max_kept_answers, help_text, metavar="N")
    mebibytes = own.max_kept_bytes // MEBIBYTE
    help_text = "maximum total size of kept answers in MiB (default: %(default)s)"
    add("--max-kept-mib", positive, mebibytes, help_text, metavar="N")


def _from_path(read: Callable[[Path], Value]) -> Callable[[str], Value]:
    return complaining(lambda text: read(named_path(text)))


def _directory(path: Path) -> Path:
    if not path.is_dir():
        raise ValueError(f"{path} is not a directory")
    return path.resolve()


@complaining
def _rate(text: str) -> int:
    if not text.isdecimal() or not LOWEST_RATE <= int(text) <= HIGHEST_RATE:
        raise ValueError(f"must be a whole number from {LOWEST_RATE} to {HIGHEST_RATE}; got {text}")
    return int(text)
