"""SGLang's processes, as ours: what they print may get lost."""

from __future__ import annotations

from typing import Any

from sglang.srt.managers.detokenizer_manager import run_detokenizer_process
from sglang.srt.managers.scheduler import run_scheduler_process

from sglang_speechlm.worker.garbage import collect_garbage
from sglang_speechlm.worker.streams import forgive_failing_writes


def run_scheduler(*arguments: Any, **named: Any) -> None:
    """One rank."""
    collect_garbage()
    forgive_failing_writes()
    run_scheduler_process(*arguments, **named)


def run_detokenizer(*arguments: Any, **named: Any) -> None:
    """The detokenizer."""
    collect_garbage()
    forgive_failing_writes()
    run_detokenizer_process(*arguments, **named)
