"""A serving process and its life: started, ready, stopped."""

from sglang_speechlm.worker.process import Worker, WorkerFailed, free_port, running

__all__ = ["Worker", "WorkerFailed", "free_port", "running"]
