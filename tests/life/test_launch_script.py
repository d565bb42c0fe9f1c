"""The server section of the usage guide, followed on a machine without the GPUs that the scripts expect."""

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import torch
from server import CASES, SECONDS, Client, Judge, wait_for

from sglang_speechlm.process import ExitStatus, free_port

SCRIPT = Path(__file__).parents[2] / "launch" / "serve_cfg.sh"
GIBIBYTE = 1 << 30


@dataclass
class ScriptServer:
    """A server started by the script for four GPUs, with 2,048 sequences and without prefix caching."""

    process: subprocess.Popen[bytes]
    port: int
    log: str


@pytest.fixture(scope="module")
def script_server(served_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScriptServer]:
    folder = tmp_path_factory.mktemp("scripted")
    log, port = folder / "log", free_port()
    (folder / "speechlm-qwen3-8b").symlink_to(served_checkpoint)
    options = ["--port", str(port), "--max-model-len", "3072", "--no-enable-prefix-caching"]
    environment = {name: value for name, value in os.environ.items() if name != "MODEL"}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPROFILEIMPORTTIME": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", str(SCRIPT), *options], cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        assert wait_for(lambda: "Uvicorn running" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()[-4000:]
        yield ScriptServer(process, port, log.read_text())
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == ExitStatus.STOPPED


@pytest.fixture
def script_client(script_server: ScriptServer) -> Iterator[Client]:
    with Client(f"http://127.0.0.1:{script_server.port}") as client:
        yield client


@pytest.mark.skipif(torch.backends.cuda.is_built(), reason="what torch for a GPU imports is needed there")
def test_a_server_without_a_gpu_imports_neither_a_compiler_nor_optimizers(script_server: ScriptServer) -> None:
    imported = {line.rpartition("|")[2].strip() for line in script_server.log.splitlines() if "import time:" in line}
    assert {"torch", "transformers.modeling_utils", "sglang.srt.managers.scheduler"} <= imported
    assert not imported & {"torch._dynamo", "torch._inductor", "scipy.optimize"}


def test_the_log_explains_each_option(script_server: ScriptServer) -> None:
    for sentence in (
        "--tensor-parallel-size 4 becomes --tp-size 1: no GPU found",
        "--max-num-seqs 2048 is SGLang's --max-running-requests 2048",
        "--max-model-len 3072 is SGLang's --context-length 3072",
        "--gpu-memory-utilization 0.9 is ignored: no GPU found",
        "--no-enable-prefix-caching is SGLang's --disable-radix-cache",
    ):
        assert script_server.log.count(sentence) == 1, sentence
    assert "Traceback" not in script_server.log


def test_the_options_are_applied(script_client: Client) -> None:
    info = script_client.http.get("/server_info").json()
    assert info["tp_size"] == 1
    assert info["max_running_requests"] == 2048
    assert info["context_length"] == 3072
    assert info["served_model_name"] == "speechlm-qwen3-8b"
    assert script_client.http.get("/v1/models").json()["data"][0]["max_model_len"] == 3072


def test_the_server_stays_within_memory(script_server: ScriptServer) -> None:
    keeper = psutil.Process(script_server.process.pid)
    processes = [keeper, *keeper.children(recursive=True)]
    assert sum(process.memory_full_info().uss for process in processes) < 6 * GIBIBYTE


def test_answers_equal_the_reference_without_a_prefix_cache(script_client: Client, judge: Judge) -> None:
    cases = CASES[:8]
    for _ in range(2):
        assert judge.compare(cases, script_client.chat_at_once([case.body() for case in cases])) > 400
