"""The launcher on a CPU with decode graphs as on a GPU: SGLang's own runner captures, pads, replays and slices.

Instead of a CUDA graph, the backend keeps the captured forward pass, which reads only the runner's buffers, and runs
it again. Each product with a head is logged as ``head of N ids for M rows``.
"""

import contextlib
import os
import runpy
import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from sglang.srt.layers.logits_processor import LogitsProcessor
from sglang.srt.model_executor.graph_shared_output import GraphSharedOutput
from sglang.srt.model_executor.runner import decode_cuda_graph_runner as runners
from sglang.srt.model_executor.runner_backend.base_cuda_graph_backend import BaseCudaGraphBackend
from sglang.srt.plugins.hook_registry import HookRegistry, HookType
from typing_extensions import override

from sglang_speechlm.platform.attention import CpuAttention

SIZES = [2, 5, 12]


class ReplayBackend(BaseCudaGraphBackend):
    """Keeps captured forward passes by shape."""

    def __init__(self) -> None:
        self._forwards: dict[Any, Callable[[], Any]] = {}

    @contextlib.contextmanager
    def capture_session(self, _stream: Any) -> Iterator[None]:
        yield

    def capture_one(self, shape_key: Any, forward_fn: Any, *_: Any, **__: Any) -> None:
        forward_fn()
        self._forwards[shape_key] = forward_fn

    def can_run(self, _forward_batch: Any, shape_key: Any) -> bool:
        return shape_key in self._forwards

    @contextlib.contextmanager
    def replay_session(self) -> Iterator[None]:
        yield

    def replay(self, shape_key: Any, _forward_batch: Any, **_: Any) -> Any:
        return self._forwards[shape_key]()

    def cleanup(self) -> None:
        self._forwards.clear()


@contextlib.contextmanager
def _no_stream(**_: Any) -> Iterator[Any]:
    yield SimpleNamespace(stream=None)


class PatchedRunner(runners.DecodeCudaGraphRunner):
    """SGLang's runner with events that are always complete."""

    @override
    def capture(self) -> None:
        self.device_module = SimpleNamespace(
            Event=lambda: SimpleNamespace(record=lambda *_: None, wait=lambda *_: None),
            is_current_stream_capturing=lambda: False,
        )
        super().capture()


def _capture(_result: Any, runner: Any, *_: Any, **__: Any) -> None:
    runner.graph_shared_output = GraphSharedOutput(device=torch.device("cpu"), max_rows=max(SIZES))
    runner.decode_cuda_graph_runner = PatchedRunner(runner)


def _log_head(_self: Any, hidden: torch.Tensor, head: Any, *_: Any, **__: Any) -> None:
    print(f"head of {len(head.weight)} ids for {len(hidden)} rows", file=sys.stderr, flush=True)


def main() -> None:
    """Run the launcher."""
    os.environ["SGLANG_LOG_DECODE_GRAPH_KEY"] = "1"
    attention: Any = CpuAttention
    attention.init_cuda_graph_state = lambda *_: None
    attention.get_cuda_graph_seq_len_fill_value = lambda _self: 1
    attention.init_forward_metadata_out_graph = lambda self, batch, **_: self.init_forward_metadata(batch)
    attention.init_forward_metadata_in_graph = lambda *_: None
    patched: Any = runners
    patched.get_batch_sizes_to_capture = lambda *_, **__: (SIZES, [])
    patched.graph_capture = _no_stream
    patched.resolve_decode_backend = lambda _runner: ReplayBackend()
    HookRegistry.register(
        "sglang.srt.model_executor.model_runner.ModelRunner.init_cuda_graphs", _capture, HookType.AFTER
    )
    HookRegistry.register(f"{LogitsProcessor.__module__}.LogitsProcessor._compute_lm_head", _log_head, HookType.BEFORE)
    runpy.run_module("sglang_speechlm.launch", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
