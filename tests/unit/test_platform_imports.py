"""What is changed before and after another package's module is imported."""

import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sglang_speechlm.platform.imports import after_import, before_import

calls: list[str] = []


def prepare(folder: Path) -> None:
    calls.append(f"before {folder.name}")


def change(module: ModuleType) -> None:
    calls.append(f"after {module.value}")


def change_again(module: ModuleType) -> None:
    calls.append(f"again after {module.value}")


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that has not been imported."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "surrounded.py").write_text("value = 1\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "surrounded", raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    calls.clear()
    return "surrounded"


def test_all_changes_of_a_module_are_made_once(own_module: str) -> None:
    for _ in range(2):
        before_import(own_module, prepare)
        after_import(own_module, change)
        after_import(own_module, change_again)
    assert import_module(own_module).value == 1
    assert calls[0] == "before folder"
    assert sorted(calls[1:]) == ["after 1", "again after 1"]


def test_an_imported_module_is_left_alone(own_module: str) -> None:
    import_module(own_module)
    before_import(own_module, prepare)
    assert calls == []


def test_a_missing_module_is_still_missing(own_module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before_import("surrounded_but_missing", prepare)
    with pytest.raises(ModuleNotFoundError, match="surrounded_but_missing"):
        import_module("surrounded_but_missing")


def test_transformers_reads_the_files_of_its_models_once() -> None:
    from transformers.utils import import_utils

    import sglang_speechlm  # noqa: F401  (imported before transformers, by ``shared``)

    scan: Any = import_utils.create_import_structure_from_path
    folder = Path(import_utils.__file__).parents[1] / "models" / "qwen3"
    assert scan(folder / "__init__.py") is scan(str(folder)) is scan(folder)
    assert "Qwen3ForCausalLM" in str(scan(folder))
