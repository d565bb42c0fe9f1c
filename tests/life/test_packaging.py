"""The wheel, installed next to the locked packages."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import sglang_speechlm

ROOT = Path(__file__).parent.parent.parent
LOCKED = re.compile(r"^([\w.-]+)(?:\[[^\]]*\])?==([^\s\\;]+)", re.MULTILINE)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in a new environment that sees this one's packages by path, and return its bin folder."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(ROOT / "sglang_speechlm", source / "sglang_speechlm", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    earlier = source / "build" / "lib" / "sglang_speechlm"
    earlier.mkdir(parents=True)
    (earlier / "removed.py").touch()
    run("make", "--old-file=setup", "wheel", f"BIN={Path(sys.executable).parent}", folder=source)
    (wheel,) = (source / "build").glob("*.whl")
    environment = folder / "environment"
    venv.create(environment, with_pip=False)
    bin_folder = environment / "bin"
    run(sys.executable, "-m", "pip", "--python", bin_folder / "python", "install", "--no-deps", "--no-index", wheel)
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib"))
    return bin_folder


def run(*command: str | Path, folder: Path | None = None) -> str:
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "PYTHONPATH"))
    }
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_command_lists_its_subcommands(installed: Path, tmp_path: Path) -> None:
    printed = run(installed / "speechlm", "--help", folder=tmp_path)
    assert re.findall(r"^  (\w+) ", printed, re.MULTILINE) == ["serve", "convert", "demo", "client"]


@pytest.mark.parametrize("name", ["serve", "convert", "demo", "client"])
def test_every_subcommand_has_help(name: str, installed: Path, tmp_path: Path) -> None:
    assert "usage:" in run(installed / "speechlm", name, "--help", folder=tmp_path)


def test_an_unknown_command_is_reported(installed: Path) -> None:
    result = subprocess.run([installed / "speechlm", "server"], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "unknown command 'server'" in result.stderr


def test_the_installed_wheel_is_imported_with_its_data(installed: Path, tmp_path: Path) -> None:
    script = "import sglang_speechlm as s; print(s.__version__, s.__file__)"
    version, file = run(installed / "python", "-c", script, folder=tmp_path).split()
    assert version == sglang_speechlm.__version__
    package = Path(file).parent
    assert package.is_relative_to(installed.parent)
    sources = [path.relative_to(ROOT / "sglang_speechlm") for path in (ROOT / "sglang_speechlm").rglob("*")]
    left_out = [path for path in sources if "__pycache__" not in path.parts and not (package / path).exists()]
    assert left_out == []


def test_a_wheel_has_no_module_of_an_earlier_build(installed: Path) -> None:
    assert not list(installed.parent.glob("lib/python*/site-packages/sglang_speechlm/removed.py"))


def locked(files: Sequence[str]) -> dict[str, str]:
    texts = [(ROOT / "launch" / "requirements" / f"{name}.txt").read_text() for name in files]
    return {name: version for text in texts for name, version in LOCKED.findall(text)}


def extra(name: str) -> list[Requirement]:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][name]
    return [Requirement(line) for line in declared]


@pytest.mark.parametrize("profile", ["cpu", "cuda"])
def test_locked_versions_satisfy_an_extra(profile: str) -> None:
    versions = locked(["base", profile])
    for requirement in extra(profile):
        assert requirement.specifier.contains(versions[requirement.name]), requirement


def applies(requirement: Requirement, extra: str = "") -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def add_dependencies(requirement: Requirement, found: dict[str, set[str]]) -> None:
    """Add an installed package and all that it requires, each with the extras that are required of it."""
    name = canonicalize_name(requirement.name)
    extras = (requirement.extras | {""}) - found.setdefault(name, set())
    found[name] |= extras
    with suppress(PackageNotFoundError):
        lines = (requires(name) or ()) if extras else ()
        for further in map(Requirement, lines):
            if any(applies(further, extra) for extra in extras):
                add_dependencies(further, found)


def test_the_cpu_extra_brings_all_that_the_tests_of_the_cpu_profile_run_with() -> None:
    found: dict[str, set[str]] = {}
    for requirement in extra("cpu"):
        add_dependencies(requirement, found)
    assert locked(["base", "cpu"]).keys() - found == {"sglang"}


def test_the_cpu_extra_has_the_pins_of_sglang_which_is_installed_without_its_requirements() -> None:
    lines = [line for line in map(Requirement, requires("sglang") or ()) if applies(line) and line.specifier]
    needed = locked(["base", "cpu"]).keys()
    pins = {line.name: str(line.specifier) for line in lines if canonicalize_name(line.name) in needed}
    assert pins.pop("torch")  # its build for CUDA; the CPU profile has another version
    declared = {requirement.name: str(requirement.specifier) for requirement in extra("cpu")}
    assert {name: declared.get(name) for name in pins} == pins
