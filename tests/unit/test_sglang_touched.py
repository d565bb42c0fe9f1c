"""SGLang's internals are used only where a new version of it may change something."""

import re
from pathlib import Path

import sglang_speechlm
from sglang_speechlm.sglang_hooks import registry

ROOT = Path(sglang_speechlm.__file__).parent
FOLDERS = {"sglang_hooks", "platform", "model"}
"""The folder of the hooks, and those of the classes that SGLang calls through its extension points."""
IMPORT = re.compile(r"^\s*(?:from|import) sglang\.srt\b", re.MULTILINE)


def test_no_other_file_imports_sglang_srt() -> None:
    importing = {file.relative_to(ROOT) for file in ROOT.rglob("*.py") if IMPORT.search(file.read_text())}
    assert {file.parts[0] for file in importing} == FOLDERS


class Base:
    def kept(self) -> None: ...


class Derived(Base):
    def kept(self) -> None: ...

    def lost(self) -> None: ...

    def added(self) -> None: ...

    for method in (kept, lost):
        method.__override__ = True  # type: ignore[attr-defined]
    del method


def test_a_method_that_overrides_nothing_is_named() -> None:
    assert registry.overriding_nothing(Derived) == ["Derived.lost"]


def test_every_method_marked_as_an_override_overrides() -> None:
    classes = registry.own_classes()
    assert [name for cls in classes for name in registry.overriding_nothing(cls)] == []
    assert all(any(getattr(value, "__override__", False) for value in vars(cls).values()) for cls in classes)
