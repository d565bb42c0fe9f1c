"""Requirements of a server on a GPU, tested on machines that are simulated by a folder and variables."""

import os
import sysconfig
from pathlib import Path

import pytest

from sglang_speechlm.platform.cuda import (
    Torch,
    add_scripts_to_path,
    check_machine,
    driver_problem,
    driver_version,
    find_gpu,
    missing_tools,
    refuse_unchosen_cpu,
)

pytestmark = pytest.mark.process
"""It asks nvcc for its version."""

TOOLS = ("g++", "c++", "gcc", "ninja")
CPU_BUILD = Torch(None, "Torch not compiled with CUDA enabled", has_kernels=False)


def no_gpu_listed() -> str:
    return ""


# GPUs


@pytest.mark.parametrize("place", ["dev/nvidia0", "proc/driver/nvidia/gpus/0000:01:00.0"])
def test_a_gpu_is_found_by_its_device_or_its_driver(tmp_path: Path, place: str) -> None:
    (tmp_path / place).mkdir(parents=True)
    assert find_gpu(tmp_path, no_gpu_listed) == f"/{place}"


def test_a_gpu_is_found_by_what_nvidia_smi_lists(tmp_path: Path) -> None:
    assert find_gpu(tmp_path, lambda: "GPU 0: NVIDIA H200 (UUID: GPU-1)\n") == "GPU 0: NVIDIA H200 (UUID: GPU-1)"


@pytest.mark.parametrize("listed", ["", "No devices found.\n", "NVIDIA-SMI has failed because it couldn't ...\n"])
def test_driver_tools_without_a_gpu_are_not_taken_for_a_gpu(tmp_path: Path, listed: str) -> None:
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidiactl").touch()
    assert find_gpu(tmp_path, lambda: listed) is None


# A CPU that was not chosen


def test_a_gpu_that_torch_cannot_use_is_refused_with_torchs_reason() -> None:
    torch = Torch("13.0", "The NVIDIA driver on your system is too old (found version 12080).", has_kernels=True)
    with pytest.raises(ValueError, match="too old") as error:
        refuse_unchosen_cpu(torch, "/dev/nvidia0", "570.86.15")
    for part in ("/dev/nvidia0", "570.86.15", "580", "--device cpu"):
        assert part in str(error.value)


def test_an_environment_for_a_gpu_is_refused_without_one() -> None:
    with pytest.raises(ValueError, match=r"built for CUDA 13\.0.*Found no NVIDIA driver") as error:
        refuse_unchosen_cpu(Torch("13.0", "Found no NVIDIA driver on your system.", has_kernels=True), None, None)
    assert "--device cpu" in str(error.value)


def test_a_gpu_with_a_cpu_build_is_refused() -> None:
    with pytest.raises(ValueError, match="PROFILE=cuda make setup"):
        refuse_unchosen_cpu(CPU_BUILD, "/dev/nvidia0", "580.65.06")


def test_a_laptop_without_a_gpu_serves_on_its_cpu() -> None:
    refuse_unchosen_cpu(CPU_BUILD, None, None)


def test_an_environment_for_a_cpu_serves_on_it_with_torchs_ordinary_build_which_has_cuda() -> None:
    refuse_unchosen_cpu(Torch("13.0", "Found no NVIDIA driver on your system.", has_kernels=False), None, None)


def test_an_environment_for_a_cpu_is_refused_on_a_gpu_that_torch_cannot_use() -> None:
    torch = Torch("13.0", "The NVIDIA driver on your system is too old (found version 12080).", has_kernels=False)
    with pytest.raises(ValueError, match="too old"):
        refuse_unchosen_cpu(torch, "/dev/nvidia0", "570.86.15")


def test_a_chosen_cpu_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Torch, "here", lambda: Torch("13.0", "No CUDA GPUs are available", has_kernels=True))
    check_machine("cpu")
    with pytest.raises(ValueError, match="No CUDA GPUs are available"):
        check_machine(None)


# Drivers


@pytest.mark.parametrize(
    "line",
    [
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build  (dvs-builder@U22)",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.86.15  Thu Jan 23 22:50:36 UTC 2025",
    ],
)
def test_the_drivers_version_is_read_from_its_kernel_module(tmp_path: Path, line: str) -> None:
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(f"{line}\nGCC version:  gcc version 13.3.0\n")
    assert driver_version(tmp_path) == "570.86.15"


def test_without_a_driver_there_is_no_version(tmp_path: Path) -> None:
    assert driver_version(tmp_path) is None


@pytest.mark.parametrize(("cuda", "driver"), [("13.0", "580.65.06"), ("12.8", "535.54.03"), ("13.0", None)])
def test_a_driver_that_is_new_enough_is_accepted(cuda: str, driver: str | None) -> None:
    assert driver_problem(cuda, driver) is None


@pytest.mark.parametrize(("cuda", "driver"), [("13.0", "575.57.08"), ("12.8", "470.256.02")])
def test_a_driver_that_is_too_old_is_named(cuda: str, driver: str) -> None:
    assert driver in str(driver_problem(cuda, driver))


# Compilers


class Machine:
    """A file system and variables with everything that is needed; a test removes parts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.programs = root / "usr" / "bin"
        self.toolkit = root / "usr" / "local" / "cuda"
        self.headers = root / "headers"
        self.variables: dict[str, str] = {}
        for name in TOOLS:
            program(self.programs / name)
        add_toolkit(self.toolkit)
        self.headers.mkdir()
        (self.headers / "Python.h").touch()

    @property
    def missing(self) -> list[str]:
        return missing_tools("13.0", {"PATH": str(self.programs), **self.variables}, self.root, self.headers)


def program(path: Path, prints: str = "") -> None:
    """Write a program that prints a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)


def add_toolkit(home: Path, release: str = "13.0", headers: int = 13000, include: str = "include") -> None:
    """Write a CUDA toolkit's nvcc and the header with its version."""
    program(home / "bin" / "nvcc", f"Cuda compilation tools, release {release}, V{release}.88")
    (home / include).mkdir(parents=True)
    (home / include / "cuda_runtime_api.h").write_text(f"#define CUDART_VERSION  {headers}\n")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_complete_machine_lacks_nothing(machine: Machine) -> None:
    assert machine.missing == []


@pytest.mark.parametrize("tool", TOOLS)
def test_a_missing_program_is_named_with_its_package(machine: Machine, tool: str) -> None:
    (machine.programs / tool).unlink()
    (problem,) = machine.missing
    assert problem.startswith(f"{tool}: not on PATH; ")
    assert "install" in problem


def test_a_compiler_named_by_a_variable_replaces_the_default(machine: Machine) -> None:
    machine.variables = {"CXX": "clang++ -O2"}
    (machine.programs / "c++").unlink()
    assert machine.missing == ["clang++: not on PATH; install it (Ubuntu: apt-get install g++)"]


def test_missing_python_headers_are_named(machine: Machine) -> None:
    (machine.headers / "Python.h").unlink()
    assert machine.missing == [f"Python.h: not in {machine.headers}; install it (Ubuntu: apt-get install python3-dev)"]


def test_a_missing_nvcc_is_named_with_the_places_searched(machine: Machine) -> None:
    (machine.toolkit / "bin" / "nvcc").unlink()
    (problem,) = machine.missing
    for part in ("nvcc: not on PATH", "/usr/local/cuda", "CUDA_HOME", "install the CUDA toolkit 13.0"):
        assert part in problem


@pytest.mark.parametrize("variable", ["CUDA_HOME", "CUDA_PATH"])
def test_a_variable_takes_precedence_over_any_other_toolkit(machine: Machine, variable: str) -> None:
    machine.variables = {variable: str(machine.root / "opt")}
    (problem,) = machine.missing
    assert f"nvcc: not in {machine.root}/opt/bin" in problem
    add_toolkit(machine.root / "opt")
    assert machine.missing == []


def test_an_nvcc_on_path_takes_precedence_over_usr_local(machine: Machine) -> None:
    add_toolkit(machine.root / "usr", release="12.4", headers=12040)
    (problem,) = machine.missing
    assert f"{machine.programs}/nvcc is from CUDA 12.4, but torch is built for CUDA 13.0" in problem


def test_an_nvcc_and_headers_of_different_versions_are_refused(machine: Machine) -> None:
    machine.variables = {"CUDA_HOME": str(machine.root / "opt")}
    add_toolkit(machine.root / "opt", release="13.5")
    (problem,) = machine.missing
    assert "is from CUDA 13.5, but the headers beside it are from CUDA 13.0" in problem


def test_headers_may_be_in_a_targets_folder(machine: Machine) -> None:
    machine.variables = {"CUDA_HOME": str(machine.root / "opt")}
    add_toolkit(machine.root / "opt", release="13.1", headers=13010, include="targets/x86_64-linux/include")
    assert machine.missing == []


def test_an_nvcc_without_headers_at_the_usual_place_is_accepted(machine: Machine) -> None:
    (machine.toolkit / "include" / "cuda_runtime_api.h").unlink()
    assert machine.missing == []


def test_the_headers_of_a_linked_nvcc_are_next_to_its_target(machine: Machine) -> None:
    add_toolkit(machine.root / "opt", release="13.5")
    (machine.programs / "nvcc").symlink_to(machine.root / "opt" / "bin" / "nvcc")
    (problem,) = machine.missing
    assert "the headers beside it are from CUDA 13.0" in problem


def test_the_environments_programs_are_added_to_path_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for _ in range(2):
        add_scripts_to_path()
        assert os.environ["PATH"] == f"/usr/bin:/bin:{sysconfig.get_path('scripts')}"
