"""The requirements of a server with an NVIDIA GPU: a driver that torch can use, and tools to compile kernels.

SGLang compiles kernels on their first use: every start on a GPU needs nvcc with its headers, a C++ compiler and ninja.
This module imports only the standard library, because the setup runs it too.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

DRIVERS = {13: 580, 12: 525}
"""The oldest NVIDIA driver for each major version of CUDA."""


@dataclass(frozen=True)
class Torch:
    """The facts about torch that decide where a server runs.

    Attributes:
        cuda: the CUDA version that torch was built for, such as ``13.0``; None for another build.
        reason: why torch cannot use CUDA; empty if it can.
        has_kernels: whether SGLang's kernels for GPUs are beside it. The CPU profile and the extra ``[cpu]`` leave them
            out, though their torch may be built for CUDA: torch's ordinary build is.
    """

    cuda: str | None
    reason: str
    has_kernels: bool

    @classmethod
    def here(cls) -> Torch:
        """Return the facts about the installed torch."""
        import torch

        if torch.cuda.is_available():
            return cls(torch.version.cuda, "", has_kernels())
        try:
            torch.cuda.init()
        except (RuntimeError, AssertionError) as error:
            return cls(torch.version.cuda, str(error), has_kernels())
        return cls(torch.version.cuda, "torch.cuda.is_available() is False", has_kernels())


def has_kernels() -> bool:
    """Whether SGLang's kernels for GPUs are installed."""
    try:
        distribution("sglang-kernel")
    except PackageNotFoundError:
        return False
    return True


def list_gpus_of_driver() -> str:
    """Return the output of `nvidia-smi -L`, one line per GPU; empty if the program is missing or fails."""
    return _output("nvidia-smi", "-L")


def find_gpu(root: Path = Path("/"), list_gpus: Callable[[], str] = list_gpus_of_driver) -> str | None:
    """Return where under `root`, or by nvidia-smi, an NVIDIA GPU was found; None without a GPU.

    A driver's tools without a GPU (a CUDA container on a machine that has none) do not count.
    """
    for pattern in ("dev/nvidia[0-9]*", "proc/driver/nvidia/gpus/*"):
        if found := sorted(root.glob(pattern)):
            return f"/{found[0].relative_to(root)}"
    gpus = [line for line in list_gpus().splitlines() if line.startswith("GPU ")]
    return gpus[0] if gpus else None


def driver_version(root: Path = Path("/")) -> str | None:
    """Return the version of the NVIDIA kernel module under `root`; None if none is loaded."""
    try:
        text = (root / "proc/driver/nvidia/version").read_text()
    except OSError:
        return None
    found = re.search(r"Module.*?\s(\d+\.[\d.]+)", text)
    return found[1] if found else None


def check_machine(device: str | None) -> None:
    """Refuse to serve on a GPU without the necessary tools, or on a CPU that was not chosen if there is a GPU.

    Args:
        device: the value of SGLang's --device; None for its default, a GPU if there is one.

    Raises:
        ValueError: naming what is missing and what to do.
    """
    if device not in (None, "cuda"):
        return
    torch = Torch.here()
    if torch.reason:
        refuse_unchosen_cpu(torch, find_gpu(), driver_version())
    elif torch.cuda is not None:
        add_scripts_to_path()
        if missing := missing_tools(torch.cuda):
            raise ValueError(f"SGLang compiles kernels for the GPU; this machine lacks:\n  {_lines(missing)}")


def refuse_unchosen_cpu(torch: Torch, gpu: str | None, driver: str | None) -> None:
    """Refuse a CPU that was not chosen.

    Args:
        torch: a torch that cannot use CUDA.
        gpu: where a GPU was found, or None.
        driver: the driver's version, or None.

    Raises:
        ValueError: if there is a GPU, or an environment for one; it has torch's reason.
    """
    if gpu is None and (torch.cuda is None or not torch.has_kernels):
        return
    place = f"there is a GPU ({gpu})" if gpu else f"torch is built for CUDA {torch.cuda}"
    steps = ["--device cpu serves on the CPU"]
    if torch.cuda is None:
        steps.insert(0, "PROFILE=cuda make setup installs torch for CUDA")
    elif problem := driver_problem(torch.cuda, driver):
        steps.insert(0, problem)
    raise ValueError(f"{place}, but torch cannot use it: {torch.reason.strip()}\n  {_lines(steps)}")


def driver_problem(cuda: str, driver: str | None) -> str | None:
    """Return the problem of a driver with a CUDA version; None if none is known."""
    oldest = DRIVERS.get(int(cuda.split(".")[0]))
    if driver is None or oldest is None or int(driver.split(".")[0]) >= oldest:
        return None
    return f"NVIDIA driver {driver}: CUDA {cuda} needs at least {oldest}; update the driver"


def add_scripts_to_path() -> None:
    """Let this process and its children find the programs of its Python environment; one of them is ninja."""
    scripts, folders = sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath).split(os.pathsep)
    if scripts not in folders:
        os.environ["PATH"] = os.pathsep.join([*folders, scripts])


def missing_tools(
    cuda: str,
    environment: Mapping[str, str] = os.environ,
    root: Path = Path("/"),
    python_headers: Path | None = None,
) -> list[str]:
    """Return the missing tools for compiling kernels for a CUDA version, each with a remedy.

    Args:
        cuda: torch's CUDA version, such as ``13.0``.
        environment: its PATH, CUDA_HOME, CUDA_PATH, CC and CXX are used, as the compiling libraries use them.
        root: the folder that contains usr/local/cuda.
        python_headers: the folder of Python.h (default: this Python's).
    """
    path = environment.get("PATH", os.defpath)
    headers = python_headers or Path(sysconfig.get_path("include"))
    missing = [problem] if (problem := _nvcc_problem(cuda, environment, root)) else []
    compilers = ("g++", environment.get("CXX") or "c++", environment.get("CC") or "gcc")
    missing += [
        f"{name.split()[0]}: not on PATH; install it (Ubuntu: apt-get install g++)"
        for name in dict.fromkeys(compilers)
        if not shutil.which(name.split()[0], path=path)
    ]
    if not shutil.which("ninja", path=path):
        missing.append("ninja: not on PATH; PROFILE=cuda make setup installs it")
    if not (headers / "Python.h").exists():
        missing.append(f"Python.h: not in {headers}; install it (Ubuntu: apt-get install python3-dev)")
    return missing


def _nvcc_problem(cuda: str, environment: Mapping[str, str], root: Path) -> str | None:
    """Return why this environment's nvcc cannot compile kernels for a CUDA version; None if no fault is known."""
    home, place = root / "usr/local/cuda", "on PATH nor in /usr/local/cuda, and CUDA_HOME is not set"
    if named := environment.get("CUDA_HOME") or environment.get("CUDA_PATH"):
        home, place = Path(named), f"in {named}/bin (CUDA_HOME or CUDA_PATH)"
    elif on_path := shutil.which("nvcc", path=environment.get("PATH", os.defpath)):
        home = Path(on_path).parent.parent
    nvcc = home / "bin" / "nvcc"
    release = re.search(r"release (\d+)\.(\d+)", _output(str(nvcc), "--version"))
    headers = headers_version(home) or headers_version(nvcc.resolve().parent.parent)
    if not os.access(nvcc, os.X_OK):
        problem = f"not {place}"
    elif release is None:
        problem = f"{nvcc} --version failed"
    elif release[1] != cuda.split(".")[0]:
        problem = f"{nvcc} is from CUDA {release[1]}.{release[2]}, but torch is built for CUDA {cuda}"
    elif headers is not None and headers != f"{release[1]}.{release[2]}":
        problem = f"{nvcc} is from CUDA {release[1]}.{release[2]}, but the headers beside it are from CUDA {headers}"
    else:
        return None
    return f"nvcc: {problem}; install the CUDA toolkit {cuda}, or set CUDA_HOME to its folder"


def headers_version(home: Path) -> str | None:
    """Return the CUDA version of the headers in a toolkit's folder; None if they are elsewhere."""
    for folder in (home / "include", *sorted(home.glob("targets/*/include"))):
        with suppress(OSError):
            text = (folder / "cuda_runtime_api.h").read_text(errors="replace")
            if number := re.search(r"#define\s+CUDART_VERSION\s+(\d+)", text):
                return f"{int(number[1]) // 1000}.{int(number[1]) % 1000 // 10}"
    return None


def _lines(sentences: Sequence[str]) -> str:
    return "\n  ".join(sentences)


def _output(*command: str) -> str:
    """Return the output of a program; empty if it is missing, fails or takes a minute."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def main(arguments: Sequence[str]) -> int:
    """Print what this machine lacks to serve on a GPU with torch for a CUDA version; return 1 if it lacks anything."""
    (cuda,) = arguments
    add_scripts_to_path()
    problem = driver_problem(cuda, driver_version())
    lacks = [*([problem] if problem else []), *missing_tools(cuda)]
    for sentence in lacks:
        print(sentence)
    return 1 if lacks else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
