"""Command line of the converter."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import get_args

from sglang_speechlm.checkpoint.check import check
from sglang_speechlm.checkpoint.convert import ConversionSettings, convert, plan_conversion
from sglang_speechlm.checkpoint.disk import refuse_full_disk
from sglang_speechlm.checkpoint.prepare import Wanted, conversion_need, locate, served_directory, tokenizer_directory
from sglang_speechlm.config.speechlm import AudioFrontend
from sglang_speechlm.options.shared import named, named_path


def main(arguments: list[str] | None = None) -> None:
    """Convert the source that the arguments name; a refusal ends with status 2 and gives the reason."""
    parser = _parser()
    values = vars(parser.parse_args(arguments))
    source, checkpoint, output, is_dry = (values.pop(name) for name in ("source", "checkpoint", "output", "check"))
    if (source is None) == (checkpoint is None):
        parser.error("give exactly one source: a path or a hub tag")
    wanted = Wanted(
        source or checkpoint,
        **{name: values.pop(name) for name in ("revision", "tokenizer", "train_config", "convert_dir")},
        settings=ConversionSettings(**values),
    )
    try:
        if is_dry:
            parser.exit(check(wanted, print))
        print(served_directory(wanted, _log) if output is None else _convert_to(output, wanted))
    except (ValueError, OSError) as error:
        parser.error(str(error))


def _convert_to(output: Path, wanted: Wanted) -> str:
    source = locate(wanted, _log)
    if source.kind == "served":
        raise ValueError(f"{source.path}: needs no conversion; serve it with --model-path")
    conversion = plan_conversion(source, tokenizer_directory(wanted, source, _log), wanted.settings)
    refuse_full_disk(conversion_need(conversion, output))
    for note in conversion.notes:
        _log(note)
    config = convert(conversion, output)
    return f"{output}: {config.vocab_size} ids, {config.text_config.num_hidden_layers} layers, {config.dtype}"


def _log(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    usual = ConversionSettings()
    parser = argparse.ArgumentParser(
        prog="python -m sglang_speechlm.convert",
        description="Convert a published or trained checkpoint to a directory that can be served. "
        "The same command resumes an interrupted run.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "source",
        nargs="?",
        type=named,
        help="a release directory, a .pt file, DeepSpeed's model states or their folder, a trainer's output directory "
        "or one of its steps, or a hub tag",
    )
    parser.add_argument("--checkpoint", type=named, metavar="SOURCE", help="the source, given as an option")
    parser.add_argument(
        "--train-config",
        type=named_path,
        metavar="FILE",
        help="training config (YAML; default: the one near the weights)",
    )
    parser.add_argument(
        "--tokenizer-path",
        "--tokenizer",
        dest="tokenizer",
        type=named,
        metavar="DIR|TAG",
        help="Qwen3's tokenizer: a directory with tokenizer.json (and config.json), or a hub tag (default: the "
        "training config's tokenizer_name)",
    )
    parser.add_argument("--revision", type=named, help="branch, tag or commit of the hub tag")
    parser.add_argument(
        "--output", type=named_path, metavar="DIR", help="directory to write (default: one in --convert-dir)"
    )
    parser.add_argument(
        "--convert-dir",
        type=named_path,
        metavar="DIR",
        help="where conversions are kept (default: the user's cache directory)",
    )
    parser.add_argument(
        "--check", action="store_true", help="report what the source is, what it would become, and every problem"
    )
    parser.add_argument(
        "--dtype",
        choices=["stored", "float32", "bfloat16"],
        default=usual.dtype,
        help="dtype of all tensors but the codec's",
    )
    parser.add_argument(
        "--audio-frontend",
        choices=get_args(AudioFrontend),
        default=usual.audio_frontend,
        help="how waveforms become mel frames",
    )
    parser.add_argument("--n-window", type=int, default=usual.n_window, help="half a chunk of the audio encoder")
    parser.add_argument("--n-window-infer", type=int, default=usual.n_window_infer, help="mel frames per attention")
    parser.add_argument(
        "--audio-heads", type=int, help="attention heads of the audio encoder (default: 64 dimensions each)"
    )
    parser.add_argument("--xcodec", type=named_path, help="directory whose config.json describes another Xcodec")
    parser.add_argument("--shard-bytes", type=int, default=usual.shard_bytes, help="maximum bytes per file")
    return parser


if __name__ == "__main__":
    main()
