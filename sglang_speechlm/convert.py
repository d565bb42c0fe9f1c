"""Command line of the converter."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

from sglang_speechlm.checkpoint.convert.convert import convert
from sglang_speechlm.checkpoint.convert.settings import ConversionSettings
from sglang_speechlm.config.speechlm import AudioFrontend


def main(arguments: list[str] | None = None) -> None:
    """Convert what the flags name; a refusal ends with status 2 and says why."""
    parser = _parser()
    values = vars(parser.parse_args(arguments))
    checkpoint, train_config, tokenizer, output = (
        values.pop(name) for name in ("checkpoint", "train_config", "tokenizer", "output")
    )
    try:
        config = convert(checkpoint, train_config, tokenizer, output, ConversionSettings(**values))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    print(f"{output}: {config.vocab_size} ids, {config.text_config.num_hidden_layers} layers, {config.dtype}")


def _parser() -> argparse.ArgumentParser:
    usual = ConversionSettings()
    parser = argparse.ArgumentParser(
        prog="python -m sglang_speechlm.convert",
        description="Convert a native ESPnet checkpoint to a directory that can be served. "
        "The same command goes on with a run that was interrupted.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--checkpoint", type=Path, required=True, help="the .pt file")
    parser.add_argument("--train-config", type=Path, required=True, help="its training config (YAML)")
    parser.add_argument(
        "--tokenizer", type=Path, required=True, help="Qwen3 directory: tokenizer.json and, if possible, config.json"
    )
    parser.add_argument("--output", type=Path, required=True, help="the served directory")
    parser.add_argument(
        "--dtype", choices=["stored", "float32", "bfloat16"], default=usual.dtype, help="codec excepted"
    )
    parser.add_argument(
        "--audio-frontend", choices=get_args(AudioFrontend), default=usual.audio_frontend, help="waveform to mel frames"
    )
    parser.add_argument("--n-window", type=int, default=usual.n_window, help="half a chunk of the audio encoder")
    parser.add_argument("--n-window-infer", type=int, default=usual.n_window_infer, help="mel frames per attention")
    parser.add_argument("--audio-heads", type=int, help="attention heads of the audio encoder; else 64 dimensions each")
    parser.add_argument("--xcodec", type=Path, help="directory whose config.json describes another Xcodec")
    parser.add_argument("--shard-bytes", type=int, default=usual.shard_bytes, help="most bytes in a file")
    return parser


if __name__ == "__main__":
    main()
