"""The codec in a native checkpoint."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import XcodecConfig

from sglang_speechlm.checkpoint.convert.settings import ConversionSettings
from sglang_speechlm.checkpoint.tensors import CODEC_PREFIX
from sglang_speechlm.config.files import naming


def codec_config(shapes: Mapping[str, tuple[int, ...]], settings: ConversionSettings) -> XcodecConfig | None:
    """Return the config of the codec among the checkpoint's tensors; None if it has no codec.

    Without a directory in ``settings``, it is the released Xcodec's, which is transformers' default.

    Raises:
        CheckpointError: if that directory has no config of a codec.
    """
    if not any(name.startswith(CODEC_PREFIX) for name in shapes):
        return None
    if settings.xcodec is not None:
        with naming(settings.xcodec / "config.json"):
            return XcodecConfig.from_pretrained(settings.xcodec)
    return XcodecConfig()


def check_codec(shapes: Mapping[str, tuple[int, ...]], config: XcodecConfig) -> None:
    """Refuse a codec whose parameters and buffers do not match ``config`` exactly.

    Raises:
        ValueError: if they differ; the message has the number of differences and the first one.
    """
    from transformers import XcodecModel  # takes seconds to import, and most commands need none

    with torch.device("meta"):
        model = XcodecModel(config)
    expected = {CODEC_PREFIX + name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    names = expected.keys() | {name for name in shapes if name.startswith(CODEC_PREFIX)}
    differing = sorted(name for name in names if shapes.get(name) != expected.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"{len(differing)} tensors of the codec do not match its config; the first is {name}: "
            f"{_shown(shapes.get(name))} in the checkpoint, {_shown(expected.get(name))} in the config; "
            "use --xcodec to name a directory whose config.json describes this codec"
        )


def _shown(shape: tuple[int, ...] | None) -> str:
    return "missing" if shape is None else str(list(shape))
