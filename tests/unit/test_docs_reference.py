"""The API reference is built from the docstrings."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_reference_has_every_public_name_and_no_warning(tmp_path: Path) -> None:
    build = subprocess.run(
        [sys.executable, "docs/reference.py", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert build.returncode == 0, build.stderr
    assert "Warn" not in build.stderr
    page = (tmp_path / "sglang_speechlm" / "frontend.html").read_text()
    for name in ("SpeechLM", "SpeechLMError", "Speech", "speak", "audio"):
        assert f'id="{name}"' in page
    assert "guidance" in page  # from the docstring of speak
