"""The launcher of a fleet whose workers are forked, like the tests' servers, to save the seconds of imports."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from sglang_speechlm.fleet import supervisor
from sglang_speechlm.process import ServerProcess
from sglang_speechlm.process.child import Process
from sglang_speechlm.process.parent import end_with_parent

sys.path.append(str(Path(__file__).parent))  # last: test modules share names with other modules
from zygote import Zygote, connected, fork_launchers


def main() -> None:
    """Run the launcher, or a worker in a fork of it."""
    launcher_end, fork_end = connected()
    if os.fork() == 0:
        end_with_parent(signal.SIGKILL)
        launcher_end.close()
        fork_launchers(None, fork_end)
        return
    fork_end.close()
    zygote = Zygote(launcher_end)

    class Worker(ServerProcess):
        def _begin(self, command: list[str], _output: IO[bytes] | None, environment: Mapping[str, str]) -> Process:
            return zygote.launch(command, environment, (1, 2))

    patched: Any = supervisor
    patched.ServerProcess = Worker
    runpy.run_module("sglang_speechlm.launch", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
