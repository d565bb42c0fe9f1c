"""Asynchronous generators are closed by whoever made them, not at some later moment by the garbage collector."""

import ast
from collections.abc import Iterator
from pathlib import Path

import sglang_speechlm

ROOT = Path(sglang_speechlm.__file__).parent
NO_GENERATORS = {"iter_any"}
"""Methods that return other iterators, which need not be closed."""


def left_open(function: ast.AsyncFunctionDef) -> Iterator[ast.AsyncFor]:
    """The loops of an asynchronous generator over another that only the loop knows: an early end leaves it open."""
    nodes = [*ast.walk(function)]
    if any(isinstance(node, ast.Yield) for node in nodes):
        for node in nodes:
            if isinstance(node, ast.AsyncFor) and isinstance(node.iter, ast.Call):
                called = node.iter.func
                if not (isinstance(called, ast.Attribute) and called.attr in NO_GENERATORS):
                    yield node


def test_no_generator_leaves_another_open() -> None:
    found = [
        f"{file.relative_to(ROOT)}:{loop.lineno}"
        for file in ROOT.rglob("*.py")
        for function in ast.walk(ast.parse(file.read_text()))
        if isinstance(function, ast.AsyncFunctionDef)
        for loop in left_open(function)
    ]
    assert found == [], "use: async with aclosing(...) as items: async for item in items"
