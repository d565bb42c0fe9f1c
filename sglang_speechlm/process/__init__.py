"""Processes around a server: its start, its health, its end."""

from sglang_speechlm.process.child import ServerFailed, ServerProcess, free_port, running
from sglang_speechlm.process.exit_status import ExitStatus

__all__ = ["ExitStatus", "ServerFailed", "ServerProcess", "free_port", "running"]
