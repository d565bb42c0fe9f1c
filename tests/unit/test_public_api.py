"""What ``import sglang_speechlm`` imports, and what it does not."""

import json
import subprocess
import sys

import pytest

import sglang_speechlm
from sglang_speechlm import frontend

SCRIPT = """
import json, os, sys
before = dict(os.environ)
import {module}
print(json.dumps([sorted({{"torch", "transformers", "sglang"}} & sys.modules.keys()), dict(os.environ) == before]))
"""

CLIENTS = ("sglang_speechlm", "sglang_speechlm.frontend", "sglang_speechlm.stage")
FRONTS = ("sglang_speechlm.fleet.main", "sglang_speechlm.options.fleet")


@pytest.mark.parametrize("module", [*CLIENTS, *FRONTS])
def test_an_import_does_not_import_torch_or_set_variables(module: str) -> None:
    script = SCRIPT.format(module=module)
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == [[], True]


@pytest.mark.parametrize("module", [sglang_speechlm, frontend])
def test_every_public_name_exists(module: object) -> None:
    for name in module.__all__:  # type: ignore[attr-defined]
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing  # type: ignore[attr-defined]
