"""What a program imports of torch, transformers and SGLang: no compiler unless it compiles, and no models early."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from server import launch

COMMANDS = """
import json, sys
import sglang_speechlm.options.command_line, sglang_speechlm.convert, sglang_speechlm.checkpoint.prepare, torch
found = {"models": "transformers.modeling_utils" in sys.modules}
from transformers import XcodecConfig, masking_utils
found["compiler"] = sorted({"torch._dynamo", "torch._inductor", "sympy"} & sys.modules.keys())
compiled = []
def backend(graph, _):
    compiled.append(graph)
    return graph.forward
found["result"] = torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2)).tolist()
found["compiled"] = len(compiled)
from torch._dynamo import _trace_wrapped_higher_order_op as module
found["one class"] = module.TransformGetItemToIndex is masking_utils.TransformGetItemToIndex
import torchvision
found["torchvision"] = torchvision.__name__
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def commands() -> dict[str, Any]:
    """What a program finds after it has imported what commands import: one program, for its imports take seconds."""
    result = subprocess.run([sys.executable, "-c", COMMANDS], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_a_server_without_a_gpu_imports_sglang_without_the_compiler(tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        status = launch([str(tmp_path / "checkpoint")], file, "tests.support.uncompiled").wait()
    assert (status, output.read_text().splitlines()[-2:]) == (0, ["[]", "True False"])


def test_commands_import_no_model_before_they_have_read_their_options(commands: dict[str, Any]) -> None:
    assert not commands["models"]


def test_a_program_that_imports_the_config_imports_no_compiler(commands: dict[str, Any]) -> None:
    assert commands["compiler"] == []


def test_a_program_that_imports_the_config_can_compile(commands: dict[str, Any]) -> None:
    assert (commands["result"], commands["compiled"], commands["one class"]) == ([2.0, 2.0], 1, True)


def test_torchvision_can_be_imported_after_the_package(commands: dict[str, Any]) -> None:
    assert commands["torchvision"] == "torchvision"
