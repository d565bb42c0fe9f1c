"""Load the half of Xcodec that turns codes into samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import XcodecConfig, XcodecModel
from transformers.initialization import no_init_weights

from sglang_speechlm.codec.windows import Context
from sglang_speechlm.config import SpeechLMConfig

CODEC_PREFIX = "multimodal_io_dict.discrete_audio.codec_model."
"""Name prefix of the codec's tensors in a SpeechLM checkpoint."""

CODEC_CONFIG_FOLDER = "xcodec"
"""Folder in a checkpoint whose config.json describes the codec tensors in the checkpoint."""

_DECODE_PARTS = ("quantizer", "fc2", "acoustic_decoder")


def load_xcodec(checkpoint: Path, config: SpeechLMConfig, device: str | torch.device) -> XcodecModel:
    """Load the decoding half of the checkpoint's codec in float32.

    The weights are the checkpoint's own codec tensors, if it has any. They are described by the checkpoint's
    ``xcodec/config.json``, else by the config of ``xcodec_hf_model_tag``, else (if that is unavailable) by the released
    codec's. Without own tensors, everything comes from ``xcodec_hf_model_tag``: a directory (relative to the
    checkpoint's folder) or a name on the hub.

    Returns:
        A model of which only ``decode`` works: ``[B, num_stream, T]`` codes to ``[B, 1, T * hop]`` samples.

    Raises:
        ValueError: if the codec contradicts ``config``, or a tensor of its decoder is missing, unexpected or misshapen.
        OSError: if the codec is not where ``xcodec_hf_model_tag`` says.
    """
    files = _files_of_own_tensors(checkpoint)
    codec_config = _codec_config(checkpoint, config, own_tensors=bool(files))
    _refuse_contradictions(codec_config, config)
    if files:
        with no_init_weights():  # not on torch's device "meta", for which this would import torch's compiler
            model = XcodecModel(codec_config)
        _keep_decode_parts(model)
        _load_own_tensors(model, files)
    else:
        source = _source(checkpoint, config)
        model, report = XcodecModel.from_pretrained(
            source, config=codec_config, dtype=torch.float32, output_loading_info=True
        )
        absent = sorted(name for name in report["missing_keys"] if name.startswith(_DECODE_PARTS))
        if absent:
            raise ValueError(f"the codec in xcodec_hf_model_tag {source!r} lacks the tensors {', '.join(absent)}")
        _keep_decode_parts(model)
    return model.to(device).eval().requires_grad_(False)


def decoder_context(model: XcodecModel) -> Context:
    """Return exactly how many codes to the left and to the right the samples of a code depend on.

    It follows the interval of positions that one hop of samples depends on from the last convolution to the first.
    For a convolution, output ``o`` reads inputs ``o - padding .. o - padding + dilation * (kernel - 1)``; for
    a transposed one, input ``i`` reaches outputs ``i * stride - padding .. i * stride - padding + kernel - 1``.
    For the released codec (strides 8, 5, 4, 2) this gives 10 and 10.
    """
    convolutions = [
        m for m in model.acoustic_decoder.modules() if isinstance(m, (torch.nn.Conv1d, torch.nn.ConvTranspose1d))
    ]
    hop = math.prod(m.stride[0] for m in convolutions)
    first, last = 0, hop - 1
    for module in reversed(convolutions):
        kernel, stride, padding, dilation = (
            int(value[0]) for value in (module.kernel_size, module.stride, module.padding, module.dilation)
        )
        if isinstance(module, torch.nn.ConvTranspose1d):
            # The position itself must be in the slice too, not only the inputs that reach it.
            first = min(-((kernel - 1 - padding - first) // stride), first // stride)
            last = max((last + padding) // stride, last // stride)
        else:
            first, last = first - padding, last - padding + dilation * (kernel - 1)
    return Context(left=-first, right=last)


def _files_of_own_tensors(checkpoint: Path) -> dict[str, Path]:
    """Return the file of each decoding tensor of the codec, by its name without the prefix."""
    files = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                if name.startswith(CODEC_PREFIX) and name.removeprefix(CODEC_PREFIX).startswith(_DECODE_PARTS):
                    files[name.removeprefix(CODEC_PREFIX)] = path
    return files


def _codec_config(checkpoint: Path, config: SpeechLMConfig, *, own_tensors: bool) -> XcodecConfig:
    folder = checkpoint / CODEC_CONFIG_FOLDER
    if own_tensors and (folder / "config.json").is_file():
        return XcodecConfig.from_pretrained(folder)
    source = _source(checkpoint, config)
    try:
        return XcodecConfig.from_pretrained(source)
    except OSError as error:
        if own_tensors:
            return XcodecConfig()  # the released codec's; tensors of another codec will not fit
        raise OSError(
            f"no codec config in xcodec_hf_model_tag {config.xcodec_hf_model_tag!r}, taken as {source!r}: {error}"
        ) from error


def _source(checkpoint: Path, config: SpeechLMConfig) -> str:
    folder = checkpoint / config.xcodec_hf_model_tag
    return str(folder) if folder.is_dir() else config.xcodec_hf_model_tag


def _refuse_contradictions(codec: XcodecConfig, config: SpeechLMConfig) -> None:
    upsampling = math.prod(codec.acoustic_model_config.upsampling_ratios)
    for field, stated, actual in (
        ("xcodec_sample_rate", config.xcodec_sample_rate, codec.sample_rate),
        ("xcodec_hop_length", config.xcodec_hop_length, codec.hop_length),
        ("xcodec_hop_length", config.xcodec_hop_length, upsampling),
        ("num_stream", config.num_stream, codec.num_quantizers),
        ("codec_layer_size", config.codec_layer_size, codec.codebook_size + 1),
    ):
        if stated != actual:
            raise ValueError(f"{field} is {stated}, but the codec ({config.xcodec_hf_model_tag!r}) needs {actual}")


def _keep_decode_parts(model: XcodecModel) -> None:
    for name, _ in list(model.named_children()):
        if name not in _DECODE_PARTS:
            delattr(model, name)


def _load_own_tensors(model: XcodecModel, files: dict[str, Path]) -> None:
    expected = model.state_dict()
    for kind, names in (("lacks", expected.keys() - files.keys()), ("has unexpected", files.keys() - expected.keys())):
        if names:
            raise ValueError(
                f"the checkpoint {kind} codec tensors: {', '.join(CODEC_PREFIX + name for name in sorted(names))}"
            )
    tensors: dict[str, Any] = {}
    for path in sorted(set(files.values())):
        with safe_open(path, framework="pt") as file:
            for name in (name for name, holder in files.items() if holder == path):
                tensor = file.get_tensor(CODEC_PREFIX + name)
                if tensor.shape != expected[name].shape:
                    raise ValueError(
                        f"{CODEC_PREFIX}{name} has shape {list(tensor.shape)}, but the codec's config needs "
                        f"{list(expected[name].shape)}"
                    )
                tensors[name] = tensor.to(torch.float32)
    model.load_state_dict(tensors, assign=True)
