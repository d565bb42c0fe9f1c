"""Hooks of all processes of the tests."""

import pytest
from schedule import (  # noqa: F401 (hooks)
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_runtest_call,
    pytest_runtest_logreport,
    pytest_sessionfinish,
)

from sglang_speechlm.process.gc import collect_garbage, collect_no_garbage


@pytest.hookimpl(trylast=True)  # once coverage is measured
def pytest_sessionstart(session: pytest.Session) -> None:
    """Import the shared fixtures, unless this process only starts others, which would then start seconds later."""
    if session.config.option.collectonly or session.config.getoption("dist", "no") == "no":
        collect_no_garbage()
        session.config.pluginmanager.import_plugin("shared")


def pytest_collection_finish() -> None:
    """Turn the garbage collector on, once all modules are imported."""
    collect_garbage()
