"""SGLang's internals are used only where a new version of it may change something."""

import ast
import functools
import inspect
import re
from pathlib import Path
from pkgutil import resolve_name

import pytest

import sglang_speechlm
from sglang_speechlm.sglang_hooks import registry, types

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


def protocols() -> dict[str, type]:
    """The protocols of SGLang's classes, by the paths of these, with which the docstrings begin."""
    own = [value for value in vars(types).values() if inspect.isclass(value) and value.__module__ == types.__name__]
    return {re.split(r"[;\s]", protocol.__doc__ or "")[0]: protocol for protocol in own}


@functools.cache
def attributes_in(file: str) -> dict[str, set[str]]:
    """The names that each class in a file declares, or sets on ``self``."""
    classes = [node for node in ast.walk(ast.parse(Path(file).read_text())) if isinstance(node, ast.ClassDef)]
    return {
        cls.name: {
            node.target.id for node in cls.body if isinstance(node, ast.AnnAssign) if isinstance(node.target, ast.Name)
        }
        | {node.attr for node in ast.walk(cls) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
        for cls in classes
    }


def has(cls: type, name: str) -> bool:
    """Whether a class, or its objects, have an attribute of this name."""
    files = {base: inspect.getsourcefile(base) for base in cls.__mro__ if base.__module__.startswith("sglang.")}
    return hasattr(cls, name) or any(
        name in attributes_in(file).get(base.__name__, ()) for base, file in files.items() if file
    )


@pytest.mark.parametrize("path", protocols())
def test_sglangs_classes_have_what_the_hooks_rely_on(path: str) -> None:
    protocol, cls = protocols()[path], resolve_name(path)
    names = {*protocol.__annotations__, *(name for name, value in vars(protocol).items() if inspect.isfunction(value))}
    relied_on = {name for name in names if not name.startswith(("speechlm_", "__", "_no_init"))}
    assert relied_on
    assert [name for name in relied_on if not has(cls, name)] == []
    assert not has(cls, "no_such_attribute")
