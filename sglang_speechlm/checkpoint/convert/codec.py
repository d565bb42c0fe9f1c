"""The codec among a native checkpoint's tensors."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from transformers import XcodecConfig, XcodecModel

from sglang_speechlm.checkpoint.convert.settings import ConversionSettings
from sglang_speechlm.checkpoint.tensors import CODEC_PREFIX

_DECODING = tuple(CODEC_PREFIX + part for part in ("acoustic_decoder.", "fc2.", "quantizer."))


def codec_config(shapes: Mapping[str, tuple[int, ...]], settings: ConversionSettings) -> XcodecConfig | None:
    """The config of the codec among the checkpoint's tensors; None if it holds no codec.

    Without a description in ``settings`` it is that of the released Xcodec, which transformers has as its default.
    """
    if not any(name.startswith(CODEC_PREFIX) for name in shapes):
        return None
    if settings.xcodec is not None:
        return XcodecConfig.from_pretrained(settings.xcodec)
    return XcodecConfig()


def check_codec(shapes: Mapping[str, tuple[int, ...]], config: XcodecConfig) -> None:
    """Refuse a codec whose decoding half is not what ``config`` describes; nothing else of it is used.

    Raises:
        ValueError: saying how many tensors differ and how the first one does.
    """
    with torch.device("meta"):
        model = XcodecModel(config)
    expected = {CODEC_PREFIX + name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    names = {name for name in expected.keys() | shapes.keys() if name.startswith(_DECODING)}
    differing = sorted(name for name in names if shapes.get(name) != expected.get(name))
    if differing:
        name = differing[0]
        raise ValueError(
            f"{len(differing)} tensors of the codec's decoder do not fit its config; the first is {name}: "
            f"{shapes.get(name)} in the checkpoint, {expected.get(name)} by the config; "
            "say with --xcodec which directory's config.json describes this codec"
        )
