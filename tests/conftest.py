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


def pytest_configure(config: pytest.Config) -> None:
    """Import the shared fixtures, unless this process only starts others, which would then start seconds later."""
    if config.option.collectonly or config.getoption("dist", "no") == "no":
        collect_no_garbage()
        config.pluginmanager.import_plugin("shared")


def pytest_collection_finish() -> None:
    """Turn the garbage collector on, once all modules are imported."""
    collect_garbage()
