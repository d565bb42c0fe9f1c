"""Setup: its locks, its choice of a profile, and that it does only what is missing."""

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launch import setup

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "launch" / "requirements"
LOCKS = ("base", "cpu", "cuda", "dev")
NAMES = st.from_regex(r"[a-z0-9]{1,6}(-[a-z0-9]{1,6}){0,2}", fullmatch=True)
VERSIONS = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}(rc[0-9]|\.post[0-9])?", fullmatch=True)


def pins_of(lock: str) -> dict[str, str]:
    return setup.read_lock(REQUIREMENTS / f"{lock}.txt")


# Locks


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_is_sorted(lock: str) -> None:
    names = list(pins_of(lock))
    assert names == sorted(names)


@pytest.mark.parametrize("profile", setup.PROFILES)
def test_no_package_is_in_two_locks_of_a_profile(profile: str) -> None:
    locks = setup.Profile(profile, REQUIREMENTS).locks
    assert len(setup.Profile(profile, REQUIREMENTS).pins) == sum(len(setup.read_lock(lock)) for lock in locks)


def test_the_cpu_profile_has_no_cuda_package() -> None:
    names = setup.Profile("cpu", REQUIREMENTS).pins
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-", "flashinfer", "sglang-kernel", "sgl-"))]


def test_the_cuda_profile_has_the_versions_that_sglang_pins() -> None:
    # The exact pins in the metadata of sglang 0.5.23 that its GPU path requires.
    pins = setup.Profile("cuda", REQUIREMENTS).pins
    expected = {
        "sglang": "0.5.23",
        "torch": "2.14.1",
        "transformers": "5.19.0",
        "sglang-kernel": "0.4.10",
        "flashinfer-python": "0.7.2",
        "apache-tvm-ffi": "0.1.11",
        "xgrammar": "0.2.7",
        "soundfile": "0.13.1",
    }
    assert expected.items() <= pins.items()


def test_the_cuda_profiles_compilers_and_headers_are_of_one_release() -> None:
    """They share a folder, and nvcc refuses headers of another release."""
    pins = pins_of("cuda")
    release = ".".join(pins["cuda-toolkit"].split(".")[:2])
    parts = [
        name for name in pins if name.startswith(("nvidia-cuda-", "nvidia-nvvm", "nvidia-nvtx", "nvidia-nvjitlink"))
    ]
    assert {name: pins[name] for name in parts if not pins[name].startswith(f"{release}.")} == {}


def test_both_profiles_serve_the_same_versions_of_sglang_and_transformers() -> None:
    assert {"sglang", "transformers", "tokenizers", "numpy"} <= pins_of("base").keys()


@given(st.dictionaries(NAMES, VERSIONS, max_size=8))
@settings(max_examples=20)
def test_a_lock_is_read_as_written(tmp_path_factory: pytest.TempPathFactory, pins: dict[str, str]) -> None:
    lock = tmp_path_factory.getbasetemp() / "lock.txt"
    lock.write_text("# a comment\n\n" + "".join(f"{name}=={version}\n" for name, version in pins.items()))
    assert setup.read_lock(lock) == pins


@pytest.mark.parametrize(
    "line", ["numpy", "numpy>=2", "numpy==2.*", "NumPy==2.0", "-r base.txt", "a==1 ; b", "a==1\na==1"]
)
def test_a_line_that_is_not_a_pin_is_refused_by_its_number(tmp_path: Path, line: str) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(f"# a comment\n{line}\n")
    with pytest.raises(setup.SetupError, match=r"lock\.txt, line [23]: "):
        setup.read_lock(lock)


# Entry points


def test_the_declared_entry_points_are_installed() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    assert set(declared) == {"sglang.serve_backends", "sglang.srt.platforms", "sglang.srt.plugins"}
    for group, points in declared.items():
        assert points.items() <= {point.name: point.value for point in entry_points(group=group)}.items()


# Profile


@pytest.mark.parametrize(
    ("requested", "existing", "gpu", "profile"),
    [
        (None, None, None, "cpu"),
        (None, None, "/dev/nvidia0", "cuda"),
        ("", None, "/dev/nvidia0", "cuda"),
        (None, "cpu", "/dev/nvidia0", "cpu"),
        ("cpu", None, "/dev/nvidia0", "cpu"),
        ("cuda", "cpu", None, "cuda"),
    ],
)
def test_a_requested_profile_takes_precedence_over_an_existing_one_and_that_over_the_gpu(
    requested: str | None, existing: str | None, gpu: str | None, profile: str
) -> None:
    assert setup.choose_profile(requested, existing, lambda: gpu)[0] == profile


def test_an_unknown_profile_is_refused_by_name() -> None:
    with pytest.raises(setup.SetupError, match="PROFILE='gpu' is not one of cpu, cuda"):
        setup.choose_profile("gpu", None)


def test_only_torch_may_install_packages_that_the_cpu_profile_does_not_lock() -> None:
    (_, rest), (_, torch) = setup.Profile("cpu", REQUIREMENTS).steps
    assert "--no-deps" in rest
    assert not [argument for argument in rest if argument.startswith("torch==")]
    assert torch[0].startswith("torch==")
    assert "--no-deps" not in torch


@pytest.mark.process
def test_setup_for_gpus_reports_what_the_machine_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    setup.check_tools(Path(sys.executable).parents[1], pins_of("cuda")["cuda-toolkit"])
    assert f"nvcc: not in {tmp_path}/bin" in capsys.readouterr().out


# Steps of a setup, on a checkout with small locks


class Checkout:
    """A root with small locks, and installations that leave the same traces as pip's but no packages."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requirements = root / "launch" / "requirements"
        self.requirements.mkdir(parents=True)
        for lock, pin in zip(LOCKS, ("numpy==2.3.5", "torch==2.13.0", "torch==2.11.0", "ruff==0.17.6"), strict=True):
            (self.requirements / f"{lock}.txt").write_text(f"{pin}\n")
        (root / "pyproject.toml").write_text("")
        self.python = "{}.{}".format(*sys.version_info)
        self.packages = root / ".venv" / "lib" / f"python{self.python}" / "site-packages"
        self.created = 0
        self.fails_at = ""

    def install(self, name: str, version: str) -> None:
        info = self.packages / f"{name.replace('-', '_')}-{version}.dist-info"
        for folder in (info, self.packages / name):
            folder.mkdir(exist_ok=True)
        (info / "RECORD").write_text(f"{name}/__init__.py,,\n{info.name}/RECORD,,\n../../../bin/{name},,\n")
        (info / "INSTALLER").write_text("pip\n")

    def create(self, environment: Path) -> None:
        self.created += 1
        shutil.rmtree(environment, ignore_errors=True)
        for path in (self.packages, environment / "bin"):
            path.mkdir(parents=True)
        (environment / "bin" / "python").symlink_to(sys.executable)
        self.install("pip", "26.0")

    def pip(self, title: str, arguments: list[str]) -> None:
        if self.fails_at and self.fails_at in title:
            raise setup.SetupError("pip failed")
        for name, _, version in (argument.partition("==") for argument in arguments if "==" in argument):
            self.install(name, version)
        if title == setup.PACKAGE:
            self.install(title, "0.1.0")

    def set_up(self, profile: str = "cpu") -> bool:
        return setup.set_up(self.root, setup.Profile(profile, self.requirements), "", True, self.create, self.pip)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_a_second_setup_does_nothing(checkout: Checkout) -> None:
    assert checkout.set_up()
    assert not checkout.set_up()
    assert checkout.created == 1


@pytest.mark.parametrize("changed", ["launch/requirements/base.txt", "launch/requirements/dev.txt", "pyproject.toml"])
def test_a_changed_lock_is_installed_into_the_existing_environment(checkout: Checkout, changed: str) -> None:
    checkout.set_up()
    with (checkout.root / changed).open("a") as file:
        file.write("# changed\n")
    assert checkout.set_up()
    assert checkout.created == 1


def test_a_changed_lock_of_the_other_profile_is_ignored(checkout: Checkout) -> None:
    checkout.set_up()
    (checkout.requirements / "cuda.txt").write_text("torch==2.11.1\n")
    assert not checkout.set_up()


@pytest.mark.parametrize("step", ["locked packages", "torch", setup.PACKAGE])
def test_an_interrupted_setup_is_resumed(checkout: Checkout, step: str) -> None:
    checkout.fails_at = step
    with pytest.raises(setup.SetupError):
        checkout.set_up()
    checkout.fails_at = ""
    assert checkout.set_up()
    assert not checkout.set_up()
    assert checkout.created == 1


@pytest.mark.parametrize("missing", ["torch-2.13.0.dist-info/INSTALLER", "torch-2.13.0.dist-info/RECORD"])
def test_an_incompletely_installed_package_is_installed_again(checkout: Checkout, missing: str) -> None:
    checkout.set_up()
    (checkout.packages / missing).unlink()
    assert checkout.set_up()
    assert (checkout.packages / missing).exists()


def test_a_package_with_missing_files_is_installed_again(checkout: Checkout) -> None:
    checkout.set_up()
    (checkout.packages / "numpy").rmdir()
    assert checkout.set_up()
    assert (checkout.packages / "numpy").exists()


@pytest.mark.parametrize("broken", [".venv/bin/python", ".venv/lib/python{}/site-packages/pip-26.0.dist-info/RECORD"])
def test_an_environment_without_interpreter_or_pip_is_recreated(checkout: Checkout, broken: str) -> None:
    checkout.set_up()
    (checkout.root / broken.format(checkout.python)).unlink()
    assert checkout.set_up()
    assert checkout.created == 2


def test_another_profile_gets_a_new_environment(checkout: Checkout) -> None:
    checkout.set_up()
    checkout.set_up("cuda")
    assert checkout.created == 2


def test_a_moved_checkout_gets_a_new_environment(checkout: Checkout, tmp_path: Path) -> None:
    checkout.set_up()
    state = setup.read_state(tmp_path / ".venv")
    assert state is not None
    setup.write_state(tmp_path / ".venv", replace(state, root="/elsewhere"))
    checkout.set_up()
    assert checkout.created == 2


def test_an_unreadable_state_is_ignored(tmp_path: Path) -> None:
    for text in ("", "{", "[]", '{"profile": "cpu"}', '{"profile": "gpu", "python": "3.11", "root": "/"}'):
        (tmp_path / setup.STATE).write_text(text)
        assert setup.read_state(tmp_path) is None


# The real commands


@pytest.mark.process
def test_errors_of_pip_are_shown_completely(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(setup.SetupError, match="make setup"):
        setup.Pip(Path(sys.prefix))("a package", ["--no-index", "no-such-package==1.0"])
    assert "No matching distribution found for no-such-package==1.0" in capsys.readouterr().out


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make as from a shell, not as a child of the make that runs the tests."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(["make", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_without_a_suitable_python_make_says_what_to_install(tmp_path: Path) -> None:
    result = make("setup", f"PYTHON={tmp_path / 'python3.12'}")
    assert result.returncode
    assert "python3.12-venv" in result.stderr


def test_clean_leaves_the_repositorys_files_only(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "module.py").touch()
    for name in (".venv", "build", "package/__pycache__", "package.egg-info"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    assert make("-C", str(tmp_path), "clean").returncode == 0
    assert {path.name for path in tmp_path.rglob("*")} == {"Makefile", "package", "module.py"}


def test_make_without_a_target_lists_all_targets() -> None:
    targets = {
        "help",
        "setup",
        "demo",
        "serve",
        "wheel",
        "test",
        "unit",
        "coverage",
        "soak",
        "attack",
        "gpu-check",
        "lint",
        "reference",
        "format",
        "clean",
    }
    assert {line.split()[1] for line in make().stdout.splitlines()} == targets
