"""A serving process and its life: started, ready, stopped."""

from sglang_speechlm.process.child import Worker, WorkerFailed, free_port, running
from sglang_speechlm.process.exit_status import ExitStatus

__all__ = ["ExitStatus", "Worker", "WorkerFailed", "free_port", "running"]
