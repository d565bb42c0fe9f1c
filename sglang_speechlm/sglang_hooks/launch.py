"""How a server starts SGLang's processes. Import it only there: it imports all of SGLang's scheduler."""

from __future__ import annotations

from typing import Any

from sglang.srt.entrypoints.engine import init_tokenizer_manager
from sglang.srt.managers.detokenizer_manager import run_detokenizer_process
from sglang.srt.managers.load_snapshot import shm_path_for
from sglang.srt.managers.scheduler import run_scheduler_process

__all__ = ["init_tokenizer_manager", "left_behind", "run_detokenizer_process", "run_scheduler_process"]


def left_behind(port_args: Any) -> str:
    """Return the path of the shared memory that SGLang's schedulers leave when they are killed.

    Args:
        port_args: SGLang's PortArgs.
    """
    return shm_path_for(port_args.instance_id)
