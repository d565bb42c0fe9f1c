"""``sglang serve`` can start this package's server: by name, or because it recognises a served directory."""

import json
from multiprocessing import get_context
from pathlib import Path

import pytest
import sglang.cli.serve  # noqa: F401  (this and the registry: here, so that the fork need not import them)
from sglang.cli.main import main
from sglang.cli.serve_backends import ServeBackendDetection, ServeBackendRegistry, ServeRequest

import sglang_speechlm.sglang_hooks.registry  # noqa: F401
from sglang_speechlm.config import MODEL_TYPES
from sglang_speechlm.process import ExitStatus
from sglang_speechlm.sglang_hooks.serve import serve_backend


def directory_of(model_type: object, folder: Path) -> str:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return str(folder)


def detected(model_path: str | None) -> ServeBackendDetection:
    detect = serve_backend().detect
    assert detect is not None
    return detect(ServeRequest(argv=(), model_path=model_path))


def test_the_backend_is_registered_by_name() -> None:
    registered = ServeBackendRegistry({}).get("speechlm")
    assert registered.distribution == "sglang-speechlm"


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_served_directory_is_recognised(model_type: str, tmp_path: Path) -> None:
    model_path = directory_of(model_type, tmp_path)
    request = ServeRequest(argv=("--model-path", model_path), model_path=model_path)
    assert ServeBackendRegistry({}).auto_detect(request).name == "speechlm"


def test_another_model_is_left_to_sglang(tmp_path: Path) -> None:
    assert detected(directory_of("qwen3", tmp_path)) is ServeBackendDetection.NO_MATCH


@pytest.mark.parametrize("config", ["", "[]", "{}", None])
def test_an_unreadable_config_is_unknown(config: str | None, tmp_path: Path) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(config)
    assert detected(str(tmp_path)) is ServeBackendDetection.UNKNOWN


def test_a_hub_tag_is_unknown() -> None:
    assert detected("espnet/a-model") is ServeBackendDetection.UNKNOWN
    assert detected(None) is ServeBackendDetection.UNKNOWN


@pytest.mark.process
def test_the_launcher_gets_the_options_and_its_status_is_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """``sglang`` runs in a fork, which has the imports of this process."""
    options = ["--model-type", "speechlm", "--dp", "1", "--port", "99999"]
    monkeypatch.setattr("sys.argv", ["sglang", "serve", str(tmp_path), *options])
    process = get_context("fork").Process(target=main)
    process.start()
    process.join()
    assert process.exitcode == ExitStatus.BAD_OPTIONS
    # A fleet without a model would be refused for that.
    assert capfd.readouterr().err == "error: --port: must be from 1 to 65535; got 99999\n"
