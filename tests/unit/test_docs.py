"""The documents match the code."""

import io
import os
import re
import subprocess
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
import soundfile
from server import Client, Server

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted(
    file
    for pattern in ("*.md", "docs/*.md", "examples/*.md", "benchmarks/*.md", "sglang_speechlm/**/*.md")
    for file in ROOT.glob(pattern)
)
README = (ROOT / "README.md").read_text()
API = (ROOT / "docs" / "api.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
MODES = [orjson.loads(cell) for cell in re.findall(r"^\| [^|]+ \| `(\{.*\})` \|$", API, re.MULTILINE)]
CURLS = re.findall(r"```sh\n(curl .*?)```", API, re.DOTALL)
URL = "http://127.0.0.1:9000"


def test_every_folder_is_described() -> None:
    folders = {f"{file.parent.relative_to(ROOT)}" for file in ROOT.glob("sglang_speechlm/*/__init__.py")}
    folders |= {"launch", "tests", "benchmarks", "clients", "examples"}
    named = set(re.findall(r"^\| `([^`]+)` \|", ARCHITECTURE, re.MULTILINE))
    assert folders <= named


def test_every_hook_is_in_the_table() -> None:
    from sglang_speechlm.sglang_hooks.registry import HOOKS

    table = re.findall(r"^\| `([\w.]+)` \| (\w+) \|", ARCHITECTURE, re.MULTILINE)
    assert table == [(target.removeprefix("sglang.srt."), kind.value) for target, _, kind in HOOKS]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_link_points_to_an_existing_file_and_heading(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(), flags=re.DOTALL)
    for path, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", text):
        target = document.parent / path if path else document
        assert target.exists(), path
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_file_that_is_named_exists(document: Path) -> None:
    places = (ROOT, ROOT / "sglang_speechlm", document.parent)
    for name in re.findall(r"`(?!espnet2/)((?:[\w*.-]+/)+[\w*.-]+\.(?:py|sh|json|js|html|md))`", document.read_text()):
        assert any(list(place.glob(name)) for place in places), name


def test_every_field_is_in_the_table() -> None:
    from sglang_speechlm.server.reading.schema import SpeechLM, VllmXargs

    fields = re.findall(r"^\| `(\w+)` \| (both|`speechlm`) \|", API, re.MULTILINE)
    shared_fields = {name for name, where in fields if where == "both"}
    assert shared_fields == set(VllmXargs.model_fields)
    assert {name for name, _ in fields} == set(SpeechLM.model_fields)


@pytest.mark.parametrize("body", ["ChatRequest", "SpeechRequest", "TranscriptionRequest", "TranslationRequest"])
def test_every_field_of_a_request_is_described(body: str) -> None:
    from sglang_speechlm.server.reading import schema

    assert {name for name in getattr(schema, body).model_fields if not re.search(rf"[`\"]{name}\b", API)} == set()


def test_every_field_of_a_preset_is_in_the_table() -> None:
    from sglang_speechlm.prompt.presets import Preset

    page = (ROOT / "sglang_speechlm" / "prompt" / "preset_files" / "README.md").read_text().partition("## Templates")[0]
    cells = " ".join(re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE))
    assert set(re.findall(r"`(\w+)`", cells)) == {"extends", *Preset.model_fields}


def test_every_name_of_a_parser_is_in_a_table() -> None:
    from sglang_speechlm.prompt import thinking, tools

    assert [name for name in (*thinking.PARSERS, *tools.PARSERS) if f"`{name}`" not in API] == []


def test_every_route_for_clients_is_in_the_table(server: Server) -> None:
    with Client(server.url) as client:
        message = client.http.get("/v1/nothing").json()["error"]["message"]
    table = API.partition("## Routes")[2].partition("\n## ")[0]
    routes = re.findall(r"/v1/[\w/]+\w", message)
    assert "/v1/chat/completions" in routes
    assert [route for route in routes if route not in table and route != "/v1/nothing"] == []


def test_every_sound_format_is_in_the_table() -> None:
    from sglang_speechlm.codec.files import _KINDS

    table = API.partition("## Sound formats")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)`[^|]* \| `([^`]+)` \| ([\d, ]+|any) \|$", table, re.MULTILINE)
    documented = {name: (media_type, re.sub(r"(?<=\d),(?=\d)", "", rates)) for name, media_type, rates in rows}
    assert documented == {
        name: (kind.media_type, ", ".join(map(str, kind.rates or ())) or "any") for name, kind in _KINDS.items()
    }


def test_every_kind_of_clip_is_described() -> None:
    from sglang_speechlm.audio import kinds

    section = API.partition("## Clips")[2].partition("\n## ")[0]
    words = {word for kind in (*kinds._READ, *kinds._BY_AV) for word in re.findall(r"[A-Z]\w+|\w*\d\w*", kind)}
    assert {"WAV", "AMR", "Ogg", "m4a"} <= words
    for text in (section, kinds.ACCEPTED):
        assert words - set(re.findall(r"\w+", text)) == set()


def test_every_format_of_a_transcript_is_described() -> None:
    from sglang_speechlm.server.reading.schema import TranscriptFormat

    (listed,) = re.findall(r"/v1/audio/transcriptions` takes[^(]*\(([^)]*)\)", API)
    assert set(re.findall(r"`(\w+)`", listed)) == set(get_args(TranscriptFormat))


def test_every_error_code_is_in_the_table() -> None:
    source = "".join(file.read_text() for file in (ROOT / "sglang_speechlm").rglob("*.py"))
    codes = set(re.findall(r'\bcode="(\w+)"', source)) | {"invalid_api_key", "request_too_large", "overloaded"}
    table = API.partition("## Errors")[2].partition("## Headers")[0]
    assert codes <= set(re.findall(r"`(\w+)`", table))


def test_the_readmes_client_works(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert URL in program
    monkeypatch.chdir(tmp_path)
    exec(program.replace(URL, server.url), {})
    assert soundfile.info(io.BytesIO((tmp_path / "answer.wav").read_bytes())).frames > 0


@pytest.mark.parametrize("mode", MODES, ids=[str(number) for number in range(len(MODES))])
def test_the_modes_work(mode: dict[str, Any], client: Client) -> None:
    body = {"messages": [{"role": "user", "content": "Read this aloud."}], **mode}
    response = client.http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert ('"audio"' in response.text) == ("max_tokens" not in mode or "vllm_xargs" in mode)


def test_all_modes_are_shown() -> None:
    assert len(MODES) == 6


@pytest.mark.parametrize("command", CURLS, ids=[re.sub(r".*/", "", curl.split()[1]) for curl in CURLS])
def test_the_curl_commands_work(command: str, server: Server, tmp_path: Path) -> None:
    assert URL in command
    command = command.replace(URL, server.url).replace("@sglang_speechlm", f"@{ROOT}/sglang_speechlm")
    script = command.replace("curl ", "curl --fail-with-body --silent ", 1)
    result = subprocess.run(["sh", "-c", script], cwd=tmp_path, capture_output=True, env=os.environ | {"NO_PROXY": "*"})
    assert result.returncode == 0, result.stdout
    assert result.stdout or any(tmp_path.iterdir())


def test_the_error_in_the_document_is_the_servers(client: Client) -> None:
    (example,) = re.findall(r"```json\n(.*?)```", API, re.DOTALL)
    body = {"messages": [{"role": "user", "content": "hi"}], "temperature": 3}
    assert client.http.post("/v1/chat/completions", json=body).json() == orjson.loads(example)
