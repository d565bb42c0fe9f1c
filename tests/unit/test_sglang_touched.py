"""SGLang's internals are touched in one folder, and in the classes that SGLang calls by contract."""

import re
from pathlib import Path

import sglang_speechlm
from sglang_speechlm.sglang_hooks import registry

ROOT = Path(sglang_speechlm.__file__).parent
BY_CONTRACT = {"sampler/backend.py", "prompt/processor.py"}
"""Beside the folders ``platform`` and ``model``."""
IMPORT = re.compile(r"^\s*(?:from|import) sglang\.srt\b", re.MULTILINE)


def test_nothing_else_imports_sglang_srt() -> None:
    importing = {str(file.relative_to(ROOT)) for file in ROOT.rglob("*.py") if IMPORT.search(file.read_text())}
    others = {name for name in importing if name.split("/")[0] not in {"sglang_hooks", "platform", "model"}}
    assert others == BY_CONTRACT


class Base:
    def kept(self) -> None: ...


class Own(Base):
    def kept(self) -> None: ...

    def lost(self) -> None: ...

    def added(self) -> None: ...

    for method in (kept, lost):
        method.__override__ = True  # type: ignore[attr-defined]
    del method


def test_a_method_that_overrides_nothing_is_named() -> None:
    assert registry.overriding_nothing(Own) == ["Own.lost"]


def test_every_method_that_is_to_override_does() -> None:
    classes = registry.own_classes()
    assert [name for cls in classes for name in registry.overriding_nothing(cls)] == []
    assert all(any(getattr(value, "__override__", False) for value in vars(cls).values()) for cls in classes)
