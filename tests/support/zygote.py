"""A process that has imported a server's modules and forks launchers, which saves the seconds of imports.

``Zygote`` runs it as a script. It has one thread, so that it can be forked safely. Each launcher has a parent of its
own, which reports the exit status. All of them end when no process that runs the tests is connected any more.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from importlib import import_module

from setproctitle import setproctitle

_UNKNOWN_STATUS = -signal.SIGKILL
_MESSAGE_BYTES = 1 << 20
_KIND = (socket.AF_UNIX, socket.SOCK_SEQPACKET)
_NUMBER = struct.Struct("=i")
_THREADS = {"OMP_NUM_THREADS": "1"}
_REREAD = {
    "SGLANG_TEST_RETRACT": "TEST_RETRACT",
    "SGLANG_TEST_RETRACT_INTERVAL": "TEST_RETRACT_INTERVAL",
}
"""Variables that SGLang's scheduler reads on import, and the names of its constants."""
_READ_LATE = {
    "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL",
    "PYTEST_CURRENT_TEST",
    "PYTEST_XDIST_TESTRUNUID",
    "SGLANG_CPU_OMP_THREADS_BIND",
    "SGLANG_TORCH_PROFILER_DIR",
    "TMPDIR",
    *_REREAD,
}
"""Variables that may differ: no other module reads them on import."""
_IMPORTED = (
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.detokenizer_manager",
    "sglang.srt.model_executor.model_runner",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.xcodec.modeling_xcodec",
    "sglang_speechlm.options.fleet",
    "sglang_speechlm.server.lifetime.start",
    "sglang_speechlm.server.lifetime.warmup",
    "sglang_speechlm.server.app",
    "sglang_speechlm.sglang_hooks.registry",
    "sglang_speechlm.model.speechlm",
    "sglang_speechlm.codec.worker.main",
    "sglang_speechlm.model.processor",
    "sglang_speechlm.sglang_hooks.grammar",
    "sglang_speechlm.sglang_hooks.sampler",
    "sglang_speechlm.platform.attention",
)


class Launched:
    """A launcher with the interface of ``subprocess.Popen``.

    Attributes:
        pid: the process id.
        returncode: the exit status, negative for a signal; None as long as no end is known.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.pid: int = _NUMBER.unpack(connection.recv(_NUMBER.size, socket.MSG_WAITALL))[0]
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit status, or None if it still runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end and return the exit status.

        Raises:
            subprocess.TimeoutExpired: if it still runs after ``timeout`` seconds.
        """
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                status = self._connection.recv(_NUMBER.size)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0) from None
            self.returncode = _NUMBER.unpack(status)[0] if status else _UNKNOWN_STATUS
            self._connection.close()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal unless the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Zygote:
    """The tests' handle on the process, which starts at the first launch in any of the processes that run the tests.

    Args:
        connection: a connection to a process that already runs.
    """

    def __init__(self, connection: socket.socket | None = None) -> None:
        self._connection = connection
        self._starting = threading.Lock()
        self._environment: dict[str, str] = {}

    def can_run_with(self, environment: Mapping[str, str]) -> bool:
        """Return whether a fork would see these variables like a new process started with them."""
        started = self._environment or {**os.environ, **_THREADS}
        names = started.keys() | environment.keys()
        return {name for name in names if started.get(name) != environment.get(name)} <= _READ_LATE

    def launch(self, command: Sequence[str], environment: Mapping[str, str], outputs: tuple[int, int]) -> Launched:
        """Fork a process in its own session that runs ``python -m MODULE ...``.

        Args:
            command: begins with the three words above.
            environment: all of its environment variables.
            outputs: file descriptors for standard output and standard error.
        """
        with self._starting:
            control = self._connection or self._connect()
        tests_end, launcher_end = socket.socketpair()
        with launcher_end:
            message = json.dumps([list(command), dict(environment), os.getcwd()]).encode()
            socket.send_fds(control, [message], [launcher_end.fileno(), *outputs])
        return Launched(tests_end)

    def _connect(self) -> socket.socket:
        """Connect to the process that all processes of this run of the tests share, and start it if there is none."""
        self._environment = {**os.environ, **_THREADS}
        address = f"\0zygote-of-servers-{os.environ.get('PYTEST_XDIST_TESTRUNUID', os.getpid())}"  # in no folder
        while self._connection is None:
            connection = socket.socket(*_KIND)
            try:
                connection.connect(address)
            except ConnectionRefusedError:
                connection.close()
                self._start(address)
            else:
                self._connection = connection
        return self._connection

    def _start(self, address: str) -> None:
        with socket.socket(*_KIND) as listener, contextlib.suppress(OSError):  # another process was first
            listener.bind(address)
            listener.listen()
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno())],
                pass_fds=[listener.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=self._environment,
            )


def main() -> None:
    """Import the modules and fork launchers until the tests end; returns only in a fork, after its launcher has run."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    _import_server_modules()
    fork_launchers(listener)


def connected() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new connection: the tests' end and the zygote's."""
    return socket.socketpair(*_KIND)


def fork_launchers(listener: socket.socket | None, *connections: socket.socket) -> None:
    """Fork launchers until all connections are closed; returns only in a fork, after its launcher has run.

    Args:
        listener: accepts further connections.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process waits for the launchers' parents
    listening = [listener] if listener is not None else []
    open_ones = list(connections)
    while True:
        for ready in select.select([*listening, *open_ones], [], [])[0]:
            if ready is listener:
                open_ones.append(listener.accept()[0])
                continue
            message, descriptors, _, _ = socket.recv_fds(ready, _MESSAGE_BYTES, 3)
            if not message:
                ready.close()
                open_ones.remove(ready)
                if not open_ones:
                    os._exit(0)
            elif os.fork() == 0:
                for inherited in (*listening, *open_ones):
                    inherited.close()
                _keep(message, *descriptors)
                return
            for descriptor in descriptors:
                os.close(descriptor)


def _import_server_modules() -> None:
    """Import SGLang's modules and the product's, none of which keeps anything of the process that imports it."""
    gc.disable()
    # The launcher does this before it imports SGLang; it imports "sglang_speechlm" first, which prepares the others.
    import_module("sglang_speechlm.platform.torch_compiler").compile_nothing()
    import_module("sglang_speechlm.platform.transformers_imports").train_nothing()
    for name in _IMPORTED:
        import_module(name)
    gc.freeze()
    setproctitle("zygote of servers")  # it must find the space for titles before the environment variables move


def _keep(message: bytes, status: int, *outputs: int) -> None:
    """Fork the launcher and report its exit status; returns only in the launcher, after it has run."""
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
    """Run the command in this process."""
    command, environment, folder = json.loads(message)
    os.setsid()
    for standard, descriptor in enumerate(outputs, start=1):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # cached from another TMPDIR
    scheduler, environ = (sys.modules[f"sglang.srt.{name}"] for name in ("managers.scheduler", "environ"))
    for variable, name in _REREAD.items():
        setattr(scheduler, name, getattr(environ.envs, variable).get())
    os.chdir(folder)
    setproctitle(" ".join(command))
    sys.path[0] = folder
    sys.argv = command[2:]
    try:
        runpy.run_module(command[2], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if not isinstance(ended.code, int):
            raise
        # Tearing down all that was imported takes most of a second.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(ended.code)


if __name__ == "__main__":
    sys.path[0] = os.getcwd()  # not this folder: its modules share names with others
    main()
