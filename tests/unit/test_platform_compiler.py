"""torch's compiler, which takes longer to import than torch, is not imported unless something is compiled."""

import subprocess
import sys


def printed(script: str) -> str:
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_a_server_without_a_gpu_imports_sglang_without_the_compiler() -> None:
    script = """
import sys, tempfile
from sglang_speechlm.platform.torch_compiler import compile_nothing
compile_nothing()
import sglang_speechlm.server.lifetime.start, sglang_speechlm.sglang_hooks.registry
import sglang.srt.entrypoints.http_server, sglang.srt.managers.scheduler
from sglang_speechlm.checkpoint import CheckpointSpec, build_checkpoint, expected_tensors
from sglang_speechlm.codec.worker.xcodec import load_xcodec
config = CheckpointSpec().config()
expected_tensors(config)
with tempfile.TemporaryDirectory() as folder:
    load_xcodec(build_checkpoint(folder, spec=CheckpointSpec()), config, "cpu")
print(sorted({"torch._dynamo", "torch._inductor"} & sys.modules.keys()))
import torch._dynamo.utils
print(torch._dynamo.utils.is_compile_supported("cpu"), torch._dynamo.config.suppress_errors)
"""
    assert printed(script) == "[]\nTrue False\n"


def test_a_program_that_imports_the_config_can_compile() -> None:
    script = """
import sys
import sglang_speechlm.config, torch
from transformers import XcodecConfig, masking_utils
print(sorted({"torch._dynamo", "torch._inductor", "sympy"} & sys.modules.keys()))
compiled = []
def backend(graph, _):
    compiled.append(graph)
    return graph.forward
print(torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2)).tolist(), len(compiled))
from torch._dynamo import _trace_wrapped_higher_order_op as module
print(module.TransformGetItemToIndex is masking_utils.TransformGetItemToIndex)
"""
    assert printed(script) == "[]\n[2.0, 2.0] 1\nTrue\n"
