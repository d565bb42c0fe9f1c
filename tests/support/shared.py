"""Fixtures shared by all tests, and the state of the processes that run them."""

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch
from server import Client, Judge, Server, serving

from sglang_speechlm.checkpoint import CheckpointSpec, build_checkpoint
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.platform.torch_compiler import compile_nothing
from sglang_speechlm.tokenizer import TextTokenizer

# As in a server without a GPU, whose imports take half the time. Processes that tests start decide for themselves.
with pytest.MonkeyPatch.context() as environment:
    environment.setenv("TORCHDYNAMO_DISABLE", "1")
    compile_nothing()

# On a busy core, two threads wait for each other in every small product: five times slower than a single thread.
torch.set_num_threads(1)

# On a busy machine, a single example can exceed hypothesis's deadline.
hypothesis.settings.register_profile(
    "patient",
    parent=hypothesis.settings(),
    max_examples=50,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("patient")

SPEC = CheckpointSpec(layers=2, eot_gain=2.4, eos_gain=1.7, seed=2)
"""Its answers end without a limit, after about 10 text ids and 20 frames."""
POOL = ("--max-total-tokens", "8192")
ALIASES = ("tts-1", "whisper-1", "gpt-4o-audio-preview")


@pytest.fixture(scope="session")
def served_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a small float32 checkpoint."""
    return build_checkpoint(tmp_path_factory.mktemp("served") / "small", spec=SPEC)


@pytest.fixture(scope="session")
def config(served_checkpoint: Path) -> SpeechLMConfig:
    """Return the config of ``served_checkpoint``."""
    config: SpeechLMConfig = SpeechLMConfig.from_pretrained(served_checkpoint)
    return config


@pytest.fixture(scope="session")
def tokenizer(served_checkpoint: Path, config: SpeechLMConfig) -> TextTokenizer:
    """Return the tokenizer of ``served_checkpoint``."""
    return TextTokenizer.from_pretrained(served_checkpoint, config)


@pytest.fixture(scope="session")
def judge(served_checkpoint: Path) -> Judge:
    """Return a judge that compares answers with the reference of ``served_checkpoint``."""
    return Judge.load(served_checkpoint)


@pytest.fixture(scope="session")
def server(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server with the usual options and metrics."""
    log = tmp_path_factory.mktemp("server") / "log"
    with serving(served_checkpoint, log, *POOL, "--enable-metrics", "--model-alias", *ALIASES) as running:
        yield running


@pytest.fixture(scope="session")
def metered(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Start a server with metrics, profiling and tools that runs three rows, retracts some and takes any model name."""
    log = tmp_path_factory.mktemp("metered") / "log"
    options = (*POOL, "--enable-metrics", "--max-running-requests", "3", "--any-model", "--tool-call-parser", "hermes")
    environment = {"SGLANG_TEST_RETRACT": "1", "SGLANG_TEST_RETRACT_INTERVAL": "20"}
    environment |= {"SGLANG_TORCH_PROFILER_DIR": str(log.parent)}
    with serving(served_checkpoint, log, *options, environment=environment) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    """A client of ``server``."""
    with Client(server.url) as client:
        yield client
