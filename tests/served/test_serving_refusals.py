"""The launcher refuses options and checkpoints that cannot be served correctly, with the reason."""

import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from server import SECONDS, launching
from sglang.srt.arg_groups.choices import LOAD_FORMAT_CHOICES, QUANTIZATION_CHOICES
from sglang.srt.server_args import ServerArgs
from torch import Tensor

from sglang_speechlm.checkpoint import CODEC_PREFIX
from sglang_speechlm.options.sglang_args import (
    _ACCEPTED,
    _ACCEPTED_VALUES,
    _REFUSED,
    UNTESTED_OPTIONS,
    refuse_quantization,
    refuse_unsupported,
    refuse_untested,
)

REFUSED: dict[str, Any] = {
    "enable_mixed_chunk": True,
    "speculative_algorithm": "EAGLE",
    "enable_priority_scheduling": True,
    "pp_size": 2,
    "attn_dp_size": 2,
    "disaggregation_mode": "prefill",
    "tokenizer_worker_num": 2,
    "skip_tokenizer_init": True,
    "enable_lora": True,
    "enable_hierarchical_cache": True,
    "enable_lmcache": True,
    "enable_unified_cache_external_linker": True,
    "startup_weight_load_mode": "overlap",
    "enable_watermark": True,
    "enable_torch_compile": True,
    "enable_streaming_session": True,
    "enable_pdmux": True,
    "dllm_algorithm": "LowConfidence",
    "page_size": 16,
    "reasoning_parser": "qwen3",
    "tool_call_parser": "hermes",
    "chunked_prefill_size": 1,
    "json_model_override_args": '{"text_config": {"quantization_config": {"quant_method": "fp8"}}}',
}
DEFAULTS = {field.name: field.default for field in msgspec.structs.fields(ServerArgs)}

Tensors = dict[str, Tensor]


@pytest.mark.parametrize("name", REFUSED)
def test_an_unsupported_option_is_refused_by_name(name: str) -> None:
    options = {**DEFAULTS, "device": "cpu"}
    assert name in options
    refuse_unsupported(SimpleNamespace(**options))
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} ") as refusal:
        refuse_unsupported(SimpleNamespace(**{**options, name: REFUSED[name]}))
    assert str(refusal.value).count("--") == 1


def test_the_launcher_ends_with_status_2_and_names_each_refused_option(served_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("enable-two-batch-overlap: true\nlog-level: info\n")
    file = str(tmp_path / "more.yaml")
    options = ("--enable-mixed-chunk", "--page-size", "16", "--quantization", "w8a8_int8", "--config", file)
    with launching(served_checkpoint, tmp_path / "log", *options) as server:
        assert server.process.wait(SECONDS) == 2
    for option in (
        "--enable-mixed-chunk",
        "--page-size",
        "--enable-two-batch-overlap",
        "--quantization (set to 'w8a8_int8'",
    ):
        assert option in server.output()
    assert "--log-level" not in server.output()
    assert "Traceback" not in server.output()


def test_every_option_that_is_not_accepted_is_refused_by_name() -> None:
    for name in sorted({*DEFAULTS} - _ACCEPTED):
        with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} .set to 'another'") as refusal:
            refuse_untested({name: ("another", DEFAULTS[name]), "log_level": ("debug", "info")}, {})
        assert "--log-level" not in str(refusal.value)


def test_a_variable_allows_untested_options_but_not_unsupported_ones() -> None:
    refuse_untested({"cuda_graph_backend_prefill": ("breakable", None)}, {UNTESTED_OPTIONS: "1"})
    with pytest.raises(ValueError, match=r"--enable-mixed-chunk .*would mix up frames"):
        refuse_untested({"enable_mixed_chunk": (True, False)}, {UNTESTED_OPTIONS: "1"})


def test_every_accepted_option_exists_in_sglang() -> None:
    assert DEFAULTS.keys() >= _ACCEPTED
    assert not _ACCEPTED & {*_REFUSED}


# Quantization

OTHER_VALUES = [("quantization", value) for value in QUANTIZATION_CHOICES if value not in ("fp8", "unquant")]
OTHER_VALUES += [("load_format", value) for value in ("bitsandbytes", "gguf", "flash_rl", "sharded_state")]
OTHER_VALUES += [("kv_cache_dtype", "nvfp4")]
ON_GPU = {"device": "cuda", "quantization": "fp8", "dtype": "bfloat16"}


@pytest.mark.parametrize(("name", "value"), OTHER_VALUES)
def test_another_quantization_is_refused_with_the_allowed_values(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} .set to '{value}'; allowed: '") as refusal:
        refuse_untested({name: (value, None)}, {UNTESTED_OPTIONS: "1"})
    assert _ACCEPTED_VALUES[name][0][0] in str(refusal.value)


def test_every_accepted_value_exists_in_sglang() -> None:
    assert {*_ACCEPTED_VALUES["quantization"][0]} <= {*QUANTIZATION_CHOICES}
    assert {*_ACCEPTED_VALUES["load_format"][0]} <= {*LOAD_FORMAT_CHOICES}
    for name, (values, _) in _ACCEPTED_VALUES.items():
        refuse_untested({name: (values[-1], None)}, {})


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_fp8_is_accepted_on_every_gpu_with_kernels_for_it(capability: tuple[int, int]) -> None:
    refuse_quantization(SimpleNamespace(**ON_GPU), capability)


@pytest.mark.parametrize(
    ("changed", "capability", "reason"),
    [
        ({}, (7, 5), "compute capability 8.0 or newer; this one has 7.5"),
        ({"dtype": "float32"}, (9, 0), "--dtype bfloat16"),
        ({"device": "cpu"}, (0, 0), "it needs an NVIDIA GPU"),
    ],
)
def test_fp8_is_refused_without_kernels_for_it(
    changed: dict[str, Any], capability: tuple[int, int], reason: str
) -> None:
    with pytest.raises(ValueError, match=r"--quantization .set to 'fp8'; allowed: None.: ") as refusal:
        refuse_quantization(SimpleNamespace(**{**ON_GPU, **changed}), capability)
    assert reason in str(refusal.value)


def test_the_launcher_refuses_fp8_on_a_cpu(served_checkpoint: Path, tmp_path: Path) -> None:
    with launching(served_checkpoint, tmp_path / "log", "--quantization", "fp8") as server:
        assert server.process.wait(SECONDS) == 2
    assert "--quantization (set to 'fp8'; allowed: None): it needs an NVIDIA GPU" in server.output()


# Checkpoints


def mismatched_tensors(tensors: Tensors) -> None:
    del tensors["adaptor.continuous_audio.bias"]
    tensors["model.surprise"] = torch.zeros(3)
    tensors["stream_emb.weight"] = tensors["stream_emb.weight"][:7].clone()
    tensors["model.layers.0.self_attn.k_proj.weight"] = torch.zeros(31, 96)


def no_codec(tensors: Tensors) -> None:
    del tensors[next(name for name in tensors if name.startswith(CODEC_PREFIX + "acoustic_decoder"))]


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (
            mismatched_tensors,
            [
                "1 missing (adaptor.continuous_audio.bias)",
                "1 unexpected (model.surprise)",
                "stream_emb.weight is",
                "model.layers.0.self_attn.k_proj.weight is [31, 96], expected [32, 96]",
            ],
        ),
        (no_codec, [f"the checkpoint lacks codec tensors: {CODEC_PREFIX}acoustic_decoder"]),
    ],
)
def test_the_launcher_ends_and_names_the_tensors_that_do_not_match(
    damage: Callable[[Tensors], None], messages: list[str], served_checkpoint: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(served_checkpoint, damaged)
    (file,) = damaged.glob("*.safetensors")
    tensors = load_file(file)
    damage(tensors)
    save_file(tensors, file, metadata={"format": "pt"})
    with launching(damaged, tmp_path / "log", "--max-total-tokens", "2048") as server:
        assert server.process.wait(SECONDS) != 0
    assert all(message in server.output() for message in messages)


def test_the_launcher_ends_with_status_2_if_its_port_is_in_use(served_checkpoint: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        with launching(served_checkpoint, tmp_path / "log", "--port", port) as server:
            assert server.process.wait(SECONDS) == 2
    assert f"--host 127.0.0.1 --port {port}: Address already in use" in server.output()
