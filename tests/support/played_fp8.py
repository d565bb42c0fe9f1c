"""The launcher on a CPU with --quantization fp8 as on a GPU: SGLang quantizes the weights after loading them.

Plain torch replaces the two kernels that quantize rows and multiply by quantized matrices. The served weights are
written to a file next to the checkpoint.
"""

import runpy
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sglang.srt.layers.quantization import fp8
from sglang.srt.plugins.hook_registry import HookRegistry, HookType

from sglang_speechlm.options import command_line

LARGEST = torch.finfo(torch.float8_e4m3fn).max


def written_weights(checkpoint: Path) -> Path:
    """Return the file of the weights with which a checkpoint is served."""
    return checkpoint.with_name(f"{checkpoint.name}.served.safetensors")


def quantize_rows(rows: torch.Tensor, _group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows [N, size] in fp8 and their scales, float32 [N, 1]."""
    scales = rows.float().abs().amax(dim=-1, keepdim=True).clamp(min=1e-10) / LARGEST
    return (rows.float() / scales).to(torch.float8_e4m3fn), scales


def multiply(input: Any, weight: Any, weight_scale: Any, **_: Any) -> torch.Tensor:
    """Return the product of rows [N, K] and an fp8 matrix [K, M] with scales [1, M], as on a GPU of capability 8.0."""
    product: torch.Tensor = (input.float() @ weight.float()) * weight_scale
    return product.to(input.dtype)


def _write_weights(_result: Any, runner: Any, *_: Any, **__: Any) -> None:
    model = runner.model
    tensors = dict(model.named_parameters()) | {"codec_head.weight": model.codec_head.weight}
    file = written_weights(Path(runner.model_config.model_path))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def main() -> None:
    """Run the launcher."""
    patched: Any = fp8
    patched._is_cpu = False
    patched.cutlass_fp8_supported = lambda: True
    patched.per_token_group_quant_fp8 = quantize_rows
    patched.apply_fp8_linear = multiply
    options: Any = command_line
    options.refuse_quantization = lambda *_: None
    HookRegistry.register(
        "sglang.srt.model_executor.model_runner.ModelRunner.init_cuda_graphs", _write_weights, HookType.AFTER
    )
    runpy.run_module("sglang_speechlm.launch", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
