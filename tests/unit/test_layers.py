"""The package's folders build on each other: what one imports does not import it in turn, not even in a function."""

import ast
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import sglang_speechlm

ROOT = Path(sglang_speechlm.__file__).parent


def part_of(path: Path) -> str | None:
    """A module's folder in the package; ``server`` has floors of its own. None at the top, which starts the others."""
    folder, *rest = path.relative_to(ROOT).with_suffix("").parts
    if not (ROOT / folder).is_dir():
        return None
    return f"{folder}/{rest[0]}" if folder == "server" and rest else folder


def imported_by(file: Path) -> Iterator[Path]:
    """The modules and names of the package that a file imports, wherever in its text."""
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.ImportFrom(module=str(module), names=names):
                found = [f"{module}.{alias.name}" for alias in names]
            case ast.Import(names=names):
                found = [alias.name for alias in names]
            case _:
                continue
        for package, *path in (name.split(".") for name in found):
            if package == ROOT.name and path:
                yield ROOT.joinpath(*path)


def test_no_folder_imports_another_in_a_circle() -> None:
    imports: defaultdict[str, set[str]] = defaultdict(set)
    for file in ROOT.rglob("*.py"):
        if part := part_of(file):
            imports[part] |= {found for path in imported_by(file) if (found := part_of(path))} - {part}
    order = list(TopologicalSorter(imports).static_order())
    assert order.index("server/edge") < order.index("server/reading") < order.index("server/lifetime")
