"""A serving process and its life: started, ready, stopped."""

from sglang_speechlm.worker.process import Worker, WorkerFailed, free_port, running
from sglang_speechlm.worker.status import ExitStatus

__all__ = ["ExitStatus", "Worker", "WorkerFailed", "free_port", "running"]
