"""The API reference is built from the docstrings."""

import os
import runpy
import sys
from pathlib import Path

from forked import Forked

ROOT = Path(__file__).parents[2]


def test_the_reference_has_every_public_name_and_no_warning(tmp_path: Path) -> None:
    def build() -> None:
        os.chdir(ROOT)
        sys.argv[1:] = [str(tmp_path)]
        runpy.run_path("docs/reference.py", run_name="__main__")

    result = Forked(build).result()
    assert result.returncode == 0, result.stderr  # pytest has made errors of pdoc's warnings
    page = (tmp_path / "sglang_speechlm" / "frontend.html").read_text()
    for name in ("SpeechLM", "SpeechLMError", "Speech", "speak", "audio"):
        assert f'id="{name}"' in page
    assert "guidance" in page  # from the docstring of speak
