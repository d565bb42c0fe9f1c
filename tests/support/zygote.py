"""A process that has imported what a server imports, and forks launchers: a start without the seconds of imports.

Run as a script by ``Zygote``. It has one thread, so that its copies are sound. Each copy has a parent of its own, which
passes the exit status on. All of them end with the process that runs the tests: its end of the connection closes.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from importlib import import_module

from setproctitle import setproctitle

_CLOSED_BEFORE_THE_END = -signal.SIGKILL
_MESSAGE_BYTES = 1 << 20
_NUMBER = struct.Struct("=i")
_THREADS = {"OMP_NUM_THREADS": "1"}
_READ_AGAIN = {
    "SGLANG_TEST_RETRACT": "TEST_RETRACT",
    "SGLANG_TEST_RETRACT_INTERVAL": "TEST_RETRACT_INTERVAL",
}
"""Variables that SGLang's scheduler reads when it is imported, and its names for what it read."""
_READ_LATE = {
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "PYTEST_CURRENT_TEST",
    "PYTEST_XDIST_TESTRUNUID",
    "SGLANG_CPU_OMP_THREADS_BIND",
    "SGLANG_TORCH_PROFILER_DIR",
    "TMPDIR",
    *_READ_AGAIN,
}
"""Variables that may differ: nothing else reads them while it is imported."""
_IMPORTED = (
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.detokenizer_manager",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.xcodec.modeling_xcodec",
)


class Launched:
    """A launcher, as ``subprocess.Popen`` would show it.

    Attributes:
        pid: its process id.
        returncode: its exit status, negative for a signal; None while it runs, as far as is known.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.pid: int = _NUMBER.unpack(connection.recv(_NUMBER.size, socket.MSG_WAITALL))[0]
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit status; None if it still runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, once it has ended.

        Raises:
            subprocess.TimeoutExpired: if it still runs after ``timeout`` seconds.
        """
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                status = self._connection.recv(_NUMBER.size)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0) from None
            self.returncode = _NUMBER.unpack(status)[0] if status else _CLOSED_BEFORE_THE_END
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Zygote:
    """The process, seen by the tests; started when it is first needed.

    Args:
        connection: to a process that is there already.
    """

    def __init__(self, connection: socket.socket | None = None) -> None:
        self._connection = connection
        self._environment: dict[str, str] = {}

    def can_run_with(self, environment: Mapping[str, str]) -> bool:
        """Whether a copy would see these variables as a process does that begins with them."""
        started = self._environment or {**os.environ, **_THREADS}
        names = started.keys() | environment.keys()
        return {name for name in names if started.get(name) != environment.get(name)} <= _READ_LATE

    def launch(self, command: Sequence[str], environment: Mapping[str, str], outputs: tuple[int, int]) -> Launched:
        """Run a command ``python -m sglang_speechlm.launch ...`` in a session of its own, as a copy.

        Args:
            command: its first three words are those.
            environment: all of its variables.
            outputs: descriptors of its standard output and error.
        """
        control = self._connection or self._start()
        ours, theirs = socket.socketpair()
        with theirs:
            message = json.dumps([list(command), dict(environment), os.getcwd()]).encode()
            socket.send_fds(control, [message], [theirs.fileno(), *outputs])
        return Launched(ours)

    def _start(self) -> socket.socket:
        self._environment = {**os.environ, **_THREADS}
        self._connection, theirs = connected()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=self._environment,
            )
        return self._connection


def main() -> None:
    """Import, and fork launchers until the tests end. Returns in the copies only, where it has run one."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _import_what_servers_need()
    fork_launchers(control)


def connected() -> tuple[socket.socket, socket.socket]:
    """The ends of a new connection to a zygote: the tests' and its own."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def fork_launchers(control: socket.socket) -> None:
    """Fork launchers until the connection is closed. Returns in the copies only, where it has run one."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the copies' parents
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, 3)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            control.close()
            _keep(message, *descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _import_what_servers_need() -> None:
    """Import no module of the product's, some of which choose a name for their process when they are imported."""
    gc.disable()
    # As the launcher does before it imports SGLang; this imports "sglang_speechlm" first, which prepares the others.
    import_module("sglang_speechlm.platform.torch_compiler").compile_nothing()
    for name in _IMPORTED:
        import_module(name)
    gc.freeze()
    setproctitle("zygote of servers")  # which finds the room for titles while the variables are where they were


def _keep(message: bytes, status: int, *outputs: int) -> None:
    """Fork the launcher, and pass its exit status on; returns in the launcher only, where it has run."""
    from sglang_speechlm.process.parent import end_with_parent

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    end_with_parent(signal.SIGKILL)
    launcher = os.fork()
    if launcher == 0:
        os.close(status)
        end_with_parent(signal.SIGTERM)
        _launch(message, outputs)
        return
    for descriptor in outputs:
        os.close(descriptor)
    os.write(status, _NUMBER.pack(launcher))
    _, ended = os.waitpid(launcher, 0)
    os.write(status, _NUMBER.pack(os.waitstatus_to_exitcode(ended)))
    os._exit(0)


def _launch(message: bytes, outputs: Sequence[int]) -> None:
    """Be the command."""
    command, environment, folder = json.loads(message)
    os.setsid()
    for standard, descriptor in enumerate(outputs, start=1):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # of another TMPDIR
    scheduler, environ = (sys.modules[f"sglang.srt.{name}"] for name in ("managers.scheduler", "environ"))
    for variable, name in _READ_AGAIN.items():
        setattr(scheduler, name, getattr(environ.envs, variable).get())
    os.chdir(folder)
    setproctitle(" ".join(command))
    sys.path[0] = folder
    sys.argv = command[2:]
    runpy.run_module(command[2], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # not this folder, whose modules have names that others have too
    main()
