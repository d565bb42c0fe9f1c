"""Fixtures shared by all tests."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from schedule import (  # noqa: F401 (hooks)
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_runtest_logreport,
    pytest_sessionfinish,
)
from server import Client, Judge, Server, serving

from sglang_speechlm.checkpoint import CheckpointSpec, build_checkpoint
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.tokenizer import TextTokenizer

# Two threads that share a busy core wait for each other at every small product: five times the time of one.
torch.set_num_threads(1)

# An example takes long on a busy machine.
hypothesis.settings.register_profile(
    "patient",
    parent=hypothesis.settings(),
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")

SPEC = CheckpointSpec(seed=0)
"""Answers that end by themselves, after about 30 ids of text and 40 frames."""
POOL = ("--max-total-tokens", "8192")
ALIASES = ("tts-1", "whisper-1", "gpt-4o-audio-preview")


@pytest.fixture(scope="session")
def served_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small float32 checkpoint."""
    return build_checkpoint(tmp_path_factory.mktemp("served") / "small", spec=SPEC)


@pytest.fixture(scope="session")
def config(served_checkpoint: Path) -> SpeechLMConfig:
    """The config of ``served_checkpoint``."""
    config: SpeechLMConfig = SpeechLMConfig.from_pretrained(served_checkpoint)
    return config


@pytest.fixture(scope="session")
def tokenizer(served_checkpoint: Path, config: SpeechLMConfig) -> TextTokenizer:
    """The tokenizer of ``served_checkpoint``."""
    return TextTokenizer.from_pretrained(served_checkpoint, config)


@pytest.fixture(scope="session")
def judge(served_checkpoint: Path) -> Judge:
    """The reference of ``served_checkpoint``, and its answers."""
    return Judge.load(served_checkpoint)


@pytest.fixture(scope="session")
def server(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server as most people start it, with metrics."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(served_checkpoint, log, *POOL, "--enable-metrics", "--model-alias", *ALIASES) as running:
        yield running


@pytest.fixture(scope="session")
def metered(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with metrics, profiles and functions, room for three rows, that retracts rows, and takes any model."""
    log = tmp_path_factory.mktemp("metered") / "log"
    options = (*POOL, "--enable-metrics", "--max-running-requests", "3", "--any-model", "--tool-call-parser", "hermes")
    environment = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "20"}
    environment |= {"SGLANG_TORCH_PROFILER_DIR": str(log.parent)}
    with serving(served_checkpoint, log, *options, environment=environment) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client of ``server``."""
    with Client(server.url) as speaking:
        yield speaking
