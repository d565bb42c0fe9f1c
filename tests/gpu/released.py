"""The released sizes with dummy weights, served by ``launch/serve_cfg_1.sh``: cost, memory, a profile and listeners."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import httpx
import torch
from server.process import wait_for

from benchmarks import serving, step_cost
from benchmarks.checkpoints import FULL_CODEC, built, released_sizes
from benchmarks.floor import nominal_bandwidth, weight_bytes
from benchmarks.gpu import with_floors
from sglang_speechlm.config import SpeechLMConfig
from sglang_speechlm.process import ServerProcess
from sglang_speechlm.process.child import Process

from . import kernels
from .machine import used_gibibytes
from .report import Figures, Report
from .scale import Scale

_SCRIPT = Path(__file__).parents[2] / "launch" / "serve_cfg_1.sh"
_ANSWER_SECONDS = 240.0
_TRACE_SECONDS = 60.0
_TRAFFIC_STEPS = 400
"""Steps of each answer during a profile, which starts half a second after the answers."""


class Released:
    """One server and the measurements on it.

    Args:
        report: for the figures.
        scale: the sizes of the measurements.
        folder: for the model, the log and the profile.
        pictures: the folder for pictures.
    """

    def __init__(self, report: Report, scale: Scale, folder: Path, pictures: Path) -> None:
        self._report, self._scale, self._folder, self._pictures = report, scale, folder, pictures
        self._model = folder / "released"
        self._traces = folder / "traces"
        self._server: ServerProcess | None = None

    def check(self) -> None:
        """Measure everything, or nothing if the server does not start."""
        try:
            if self._report.part("released sizes: start by the script", 240, self._start):
                self._report.part("released sizes: steps", 120, self._steps)
                self._report.part("released sizes: a long guided prompt", 60, self._long_prompt)
                self._report.part("released sizes: one draw over the whole vocabulary", 60, self._whole_vocabulary)
                self._report.part("released sizes: profile of decode steps", 90, self._profile)
                self._report.part("released sizes: listeners", 90, self._listeners)
        finally:
            if self._server is not None:
                self._server.kill()

    def _start(self, figures: Figures) -> None:
        options = [*self._scale.options, "--host", "127.0.0.1"]
        if self._scale.on_gpu:
            released_sizes(self._model, codec_size="full")
            options += ["--load-format", "dummy"]
        else:
            built(self._model, FULL_CODEC)
        self._traces.mkdir(parents=True)
        started = time.monotonic()
        environment = {"SGLANG_TORCH_PROFILER_DIR": str(self._traces)}
        self._server = _ByScript(self._model, self._folder / "released.log", options, environment=environment)
        self._server.wait_until_ready()
        figures["ready_seconds"] = round(time.monotonic() - started, 1)
        figures["plan"] = [line for line in self._server.output().splitlines() if "GiB" in line or " GB" in line][:20]
        self._record_memory(figures)

    def _steps(self, figures: Figures) -> None:
        config = SpeechLMConfig.from_pretrained(self._model)
        table: list[dict[str, Any]] = []
        figures["weight_bytes"], figures["table"] = weight_bytes(config), table
        for rows in self._scale.rows:
            row = asyncio.run(step_cost.measure(self._url, time.perf_counter, rows, self._scale.steps, rounds=2))
            if self._scale.on_gpu:
                card = torch.cuda.get_device_properties(0)
                bandwidth = nominal_bandwidth(card.memory_clock_rate, card.memory_bus_width)
                row = with_floors(row, config, self._scale.steps, bandwidth)
            table.append(row)
        self._record_memory(figures)

    def _long_prompt(self, figures: Figures) -> None:
        body = step_cost.body("guided", 8, 0)
        filler = [300 + number % 4000 % 400 for number in range(self._scale.long_prompt)]
        body["input_ids"] = [*body["input_ids"][:3], *filler, *body["input_ids"][-3:]]
        started = time.monotonic()
        figures["frames"] = len(self._generate(body)["meta_info"]["frames"])
        figures["answer_seconds"] = round(time.monotonic() - started, 2)
        assert figures["frames"] == body["sampling_params"]["max_new_tokens"]
        self._record_memory(figures)

    def _whole_vocabulary(self, figures: Figures) -> None:
        bodies = [step_cost.body("text", self._scale.steps, row) for row in range(self._scale.texts)]
        figures["seconds_with_top_k"] = self._seconds_for(bodies)
        bodies[0]["sampling_params"]["top_k"] = -1
        figures["seconds_with_one_without"] = self._seconds_for(bodies)
        self._record_memory(figures)

    def _profile(self, figures: Figures) -> None:
        rows, kinds = max(self._scale.rows), ("text", "audio", "guided")
        bodies = [step_cost.body(kinds[row % len(kinds)], _TRAFFIC_STEPS, row) for row in range(rows)]
        traffic = threading.Thread(target=self._seconds_for, args=(bodies,), daemon=True)
        traffic.start()
        time.sleep(0.5)
        activities = ["CPU", "GPU"] if self._scale.on_gpu else ["CPU"]
        request = {"num_steps": self._scale.profiled_steps, "activities": activities}
        httpx.post(f"{self._url}/start_profile", json=request, timeout=_TRACE_SECONDS).raise_for_status()
        traffic.join(_TRACE_SECONDS)
        assert wait_for(lambda: _complete_trace(self._traces) is not None, _TRACE_SECONDS), "no trace was written"
        trace = _complete_trace(self._traces)
        assert trace is not None
        figures["table"] = kernels.table_of(trace, "kernel" if self._scale.on_gpu else "cpu_op")
        title = f"{self._scale.profiled_steps} decode steps of {rows} answers: text, audio, guided"
        kernels.draw(figures["table"], title, self._pictures / "gpu_kernels.png")

    def _listeners(self, figures: Figures) -> None:
        table: list[dict[str, float]] = []
        figures["frames"], figures["table"] = self._scale.frames, table
        for listeners in self._scale.listeners:
            playbacks, seconds = asyncio.run(serving.listen(self._url, listeners, 1, self._scale.frames, 1.0))
            table.append(serving.summarize(listeners, playbacks, seconds))

    @property
    def _url(self) -> str:
        assert self._server is not None
        return self._server.url

    def _generate(self, body: dict[str, Any]) -> Any:
        answer = httpx.post(f"{self._url}/generate", json=body, timeout=_ANSWER_SECONDS, trust_env=False)
        assert answer.status_code == 200, f"{answer.status_code}: {answer.text[:500]}"
        return answer.json()

    def _seconds_for(self, bodies: Sequence[dict[str, Any]]) -> float:
        started = time.monotonic()
        with ThreadPoolExecutor(len(bodies)) as threads:
            list(threads.map(self._generate, bodies))
        return round(time.monotonic() - started, 2)

    def _record_memory(self, figures: Figures) -> None:
        assert self._server is not None
        figures["used_gibibytes"] = used_gibibytes(self._server, on_gpu=self._scale.on_gpu)


class _ByScript(ServerProcess):
    """A server that is started by the unchanged script."""

    def _begin(self, command: list[str], output: IO[bytes] | None, environment: Mapping[str, str]) -> Process:
        assert command[:3] == [sys.executable, "-m", "sglang_speechlm.launch"]
        return super()._begin(["bash", str(_SCRIPT), *command[3:]], output, environment)


def _complete_trace(traces: Path) -> Path | None:
    """Return the trace once it is completely written."""
    for trace in traces.rglob("*.trace.json.gz"):
        if time.time() - trace.stat().st_mtime > 1:
            return trace
    return None
