"""How a server starts SGLang's processes. Import it only there: it imports all of SGLang's scheduler."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from sglang.srt.entrypoints.engine import init_tokenizer_manager
from sglang.srt.managers.detokenizer_manager import run_detokenizer_process
from sglang.srt.managers.load_snapshot import shm_path_for
from sglang.srt.managers.scheduler import run_scheduler_process

from sglang_speechlm.sglang_hooks.types import TokenizerManager

__all__ = ["left_behind", "make_tokenizer_manager", "run_detokenizer_process", "run_scheduler_process"]


def make_tokenizer_manager(
    server_args: Any, port_args: Any, *, on_sigterm: Callable[[], None], on_sigquit: Callable[[], None]
) -> tuple[TokenizerManager, Any]:
    """Create SGLang's TokenizerManager and templates, with these handlers of signals instead of SGLang's own.

    Args:
        server_args: SGLang's ServerArgs.
        port_args: SGLang's PortArgs.
        on_sigterm: called when the server is to stop; SGLang's own drains without a limit.
        on_sigquit: called when one of SGLang's processes has died.
    """
    manager: TokenizerManager
    manager, templates = init_tokenizer_manager(server_args, port_args)
    handlers = SimpleNamespace(sigterm_handler=on_sigterm, running_phase_sigquit_handler=on_sigquit)
    manager.signal_handler_class = lambda _manager: handlers
    return manager, templates


def left_behind(port_args: Any) -> str:
    """Return the path of the shared memory that SGLang's schedulers leave when they are killed.

    Args:
        port_args: SGLang's PortArgs.
    """
    return shm_path_for(port_args.instance_id)
