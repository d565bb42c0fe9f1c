"""Which tests are units, and the order of files: the one that took longest last time is the first.

Both are hooks of pytest's, which ``conftest`` imports.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from itertools import groupby
from types import CodeType, FunctionType
from typing import Any

import pytest

_KEY = "speechlm/seconds"
_STARTERS = {"Popen", "Runner", "Server", "Worker", "spawn", "subprocess"}
"""Names of what begins a process, or watches one."""
_TESTS = str(__file__).rpartition("/")[0]
_seconds: dict[str, float] = {}


@pytest.hookimpl(tryfirst=True)  # before tests are chosen by their marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the units, and put the files in order."""
    assert config.cache is not None
    before: dict[str, float] = config.cache.get(_KEY, {})
    files = [(name, list(group)) for name, group in groupby(items, lambda item: item.path)]
    files.sort(key=lambda file: -sum(before.get(item.nodeid, math.inf) for item in file[1]))
    items[:] = [item for _, group in files for item in group]
    for item in items:
        if not any(_starts_a_process(function) for function in _functions(item)):
            item.add_marker("unit")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note how long a part of a test took."""
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Keep the durations, beside those of tests that did not run this time."""
    if not hasattr(session.config, "workerinput"):  # the process that all reports come to
        assert session.config.cache is not None
        session.config.cache.set(_KEY, session.config.cache.get(_KEY, {}) | _seconds)


def _functions(item: Any) -> Iterator[Callable[..., Any]]:
    """The test, and the fixtures that it uses."""
    yield item.function
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        yield from (definition.func for definition in definitions)


def _starts_a_process(function: Callable[..., Any], seen: frozenset[Any] = frozenset()) -> bool:
    """Whether a function of the tests, or one that it calls, names what begins a process."""
    function = inspect.unwrap(function)
    if not isinstance(function, FunctionType) or function in seen:
        return False
    if not function.__code__.co_filename.startswith(_TESTS):
        return False
    names = _names(function.__code__)
    called = [function.__globals__.get(name) for name in names]
    return bool(names & _STARTERS) or any(
        _starts_a_process(other, seen | {function}) for other in called if callable(other)
    )


def _names(code: CodeType) -> set[str]:
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)
