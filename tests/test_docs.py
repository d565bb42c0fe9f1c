"""The documents are true of the code."""

import io
import re
from pathlib import Path
from typing import Any

import orjson
import pytest
import soundfile
from server import Client, Server

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
MODES = [orjson.loads(found) for found in re.findall(r"^\| [^|]+ \| `(\{.*\})` \|$", README, re.MULTILINE)]


def test_every_folder_has_its_sentence() -> None:
    folders = {f"{found.parent.relative_to(ROOT)}" for found in ROOT.glob("sglang_speechlm/*/__init__.py")}
    folders |= {"launch", "tests", "benchmarks"}
    named = set(re.findall(r"^\| `([^`]+)` \|", ARCHITECTURE, re.MULTILINE))
    assert folders <= named


def test_every_hook_is_in_the_table() -> None:
    from sglang_speechlm.sglang_hooks.registry import HOOKS

    table = re.findall(r"^\| `([\w.]+)` \| (\w+) \|", ARCHITECTURE, re.MULTILINE)
    assert table == [(target.removeprefix("sglang.srt."), kind.value) for target, _, kind in HOOKS]


def test_every_field_is_in_the_readmes_table() -> None:
    from sglang_speechlm.server.reading.schema import SpeechLM, VllmXargs

    fields = re.findall(r"^\| `(\w+)` \| (both|`speechlm`) \|", README, re.MULTILINE)
    both = {name for name, where in fields if where == "both"}
    assert both == set(VllmXargs.model_fields)
    assert {name for name, _ in fields} == set(SpeechLM.model_fields)


def test_the_readmes_client_works(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (program,) = (program for program in programs if "OpenAI(" in program)
    assert "http://127.0.0.1:9000" in program
    monkeypatch.chdir(tmp_path)
    exec(program.replace("http://127.0.0.1:9000", server.url), {})
    assert soundfile.info(io.BytesIO((tmp_path / "answer.wav").read_bytes())).frames > 0


@pytest.mark.parametrize("mode", MODES, ids=[str(number) for number in range(len(MODES))])
def test_the_readmes_modes_work(mode: dict[str, Any], client: Client) -> None:
    body = {"messages": [{"role": "user", "content": "Read this aloud."}], **mode}
    response = client.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert ('"audio"' in response.text) == ("max_tokens" not in mode or "vllm_xargs" in mode)


def test_the_readme_shows_all_modes() -> None:
    assert len(MODES) == 6
