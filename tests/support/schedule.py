"""Pytest hooks that mark the unit tests, which start no process, and run the longest files first.

``conftest`` imports them. ``--keep-durations`` saves the durations of this run for later runs; ``--shuffle=SEED``
reveals whether a test depends on another.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import cache
from multiprocessing import util
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest

_DURATIONS = Path(__file__).with_name("durations.json")
"""Seconds by file name in a run of all tests on two cores; files below one second are left out."""
_STARTERS = {"Forked", "Popen", "ProcessPoolExecutor", "Runner", "Server", "ServerProcess", "spawn", "subprocess"}
"""Names of classes and modules that start or watch a process."""
_WAYS_TO_START = ((os, "fork"), (os, "posix_spawn"), (subprocess.Popen, "_execute_child"), (util, "spawnv_passfds"))
_QUERIES = (["uname", "-p"], ["/sbin/ldconfig", "-p"])
"""Commands by which ``platform`` and ``ctypes`` learn about the machine, when a library is first imported or used."""
_execute_child = subprocess.Popen._execute_child  # type: ignore[attr-defined]
_TESTS = str(Path(__file__).parents[1])
_seconds: defaultdict[str, float] = defaultdict(float)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--keep-durations`` and ``--shuffle``."""
    parser.addoption(
        "--keep-durations", action="store_true", help=f"save the durations of this run in {_DURATIONS.name}"
    )
    parser.addoption(
        "--shuffle", metavar="SEED", help="run files, and the tests in each, in the random order of this seed"
    )


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark unit tests and order the files."""
    if (seed := config.option.shuffle) is not None:
        # Ordered by digests instead of a generator, so that the order does not depend on the selection.
        items.sort(key=lambda item: (_digest(seed, item.path.name), _digest(seed, item.nodeid)))
    else:
        durations: dict[str, float] = json.loads(_DURATIONS.read_text())
        items.sort(key=lambda item: (-durations.get(item.path.name, 0.0), item.path.name))
    for item in items:
        marked = item.get_closest_marker("process") is not None
        if not marked and not any(_starts_a_process(function) for function in _functions(item)):
            item.add_marker("unit")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a unit test that starts a process."""
    with pytest.MonkeyPatch.context() as patch:
        if item.get_closest_marker("unit"):
            for owner, name in _WAYS_TO_START:
                patch.setattr(owner, name, _refuse_to_start)
        return (yield)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add the duration of a test's phase to its file."""
    _seconds[Path(report.fspath).name] += report.duration


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Save the durations, if requested, in the process that receives all reports."""
    if session.config.option.keep_durations and not hasattr(session.config, "workerinput"):
        kept = {name: round(seconds, 1) for name, seconds in sorted(_seconds.items()) if seconds >= 1}
        _DURATIONS.write_text(json.dumps(kept, indent=0) + "\n")


def _refuse_to_start(*args: Any, **options: Any) -> None:
    """Fail the test, unless the process is one of ``_QUERIES``."""
    if args[1:2] and args[1] in _QUERIES:
        _execute_child(*args, **options)
        return
    pytest.fail("this unit test starts a process: mark it with pytest.mark.process")


def _digest(seed: str, name: str) -> bytes:
    return hashlib.sha256(f"{seed} {name}".encode()).digest()


def _functions(item: Any) -> Iterator[Callable[..., Any]]:
    """Yield the test function and the fixtures that it uses."""
    yield item.function
    for definitions in item._fixtureinfo.name2fixturedefs.values():
        yield from (definition.func for definition in definitions)


@cache
def _starts_a_process(function: Callable[..., Any]) -> bool:
    """Return whether a test function or fixture, or a function or class of the tests that it uses, starts a process."""
    waiting: list[Any] = [function]
    seen = set()
    while waiting:
        used = inspect.unwrap(waiting.pop())
        if getattr(used, "__module__", None) == "subprocess":
            return True
        if not isinstance(used, FunctionType | type) or used in seen or not _is_of_tests(used):
            continue
        seen.add(used)
        if isinstance(used, type):
            waiting += vars(used).values()
        else:
            names = _names(used.__code__)
            if names & _STARTERS:
                return True
            waiting += [used.__globals__.get(name) for name in names]
    return False


def _is_of_tests(used: FunctionType | type) -> bool:
    return (getattr(sys.modules.get(used.__module__), "__file__", None) or "").startswith(_TESTS)


def _names(code: CodeType) -> set[str]:
    inner = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*inner)
