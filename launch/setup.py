"""Create `.venv` with the locked packages of the CPU or the CUDA profile, and this package itself, editable.

`make setup` runs it with any Python 3.11 or 3.12; it needs only the standard library. It keeps everything that is
already in place, so a second run does nothing and an interrupted run resumes where it stopped.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the package is not installed yet

from sglang_speechlm.platform.cuda import find_gpu  # noqa: E402

PROFILES = ("cpu", "cuda")
PACKAGE = "sglang-speechlm"
STATE = "sglang-speechlm.json"


class SetupError(Exception):
    """The setup cannot continue; the message says why and what to do."""


# Choosing the profile


def choose_profile(
    requested: str | None, kept: str | None, gpu: Callable[[], str | None] = find_gpu
) -> tuple[str, str]:
    """Return the profile to install, and the reason.

    The user's choice has priority, then the existing environment's profile, then the machine's hardware.
    """
    if requested:
        if requested not in PROFILES:
            raise SetupError(f"PROFILE={requested!r} is not one of {', '.join(PROFILES)}")
        return requested, f"PROFILE={requested}"
    if kept:
        return kept, "same as before; PROFILE=cpu or PROFILE=cuda changes it"
    if place := gpu():
        return "cuda", f"NVIDIA GPU: {place}; PROFILE=cpu ignores it"
    return "cpu", "no NVIDIA GPU; PROFILE=cuda installs for one anyway"


# The contents of the profile


def normalize(name: str) -> str:
    """Return a distribution's name in the form of the index and the locks (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_lock(path: Path) -> dict[str, str]:
    """Return the versions in a lock file by name; it has lines `name==version`, comments and blank lines."""
    pins: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        pin = re.fullmatch(r"([a-z0-9]+(?:-[a-z0-9]+)*)==([0-9][0-9a-z.]*)", line)
        if not pin:
            raise SetupError(f"{path}, line {number}: {line!r} must have the form name==version")
        if pin[1] in pins:
            raise SetupError(f"{path}, line {number}: {pin[1]} appears twice")
        pins[pin[1]] = pin[2]
    return pins


@dataclass(frozen=True)
class Profile:
    """A profile's locks, read from `folder`."""

    name: str
    folder: Path

    @property
    def locks(self) -> list[Path]:
        return [self.folder / f"{name}.txt" for name in ("base", self.name, "dev")]

    @property
    def pins(self) -> dict[str, str]:
        return {name: version for lock in self.locks for name, version in read_lock(lock).items()}

    @property
    def steps(self) -> list[tuple[str, list[str]]]:
        """Return the pip runs in order, as title and arguments."""
        if self.name == "cuda":
            files = [argument for lock in self.locks for argument in ("-r", str(lock))]
            return [(f"{len(self.pins)} locked packages", files)]
        # sglang's own pins would install CUDA packages. torch is last, after its locked dependencies, so that only the
        # libraries of a CUDA build can be missing then.
        torch = f"torch=={self.pins['torch']}"
        rest = [f"{name}=={version}" for name, version in self.pins.items() if name != "torch"]
        bounds = [argument for lock in self.locks for argument in ("-c", str(lock))]
        return [(f"{len(rest)} locked packages", ["--no-deps", *rest]), (torch, [torch, *bounds])]


# The existing environment


@dataclass(frozen=True)
class State:
    """The composition of an environment, stored in it. The digest of the locks is set once the setup is finished."""

    profile: str
    python: str
    root: str
    digest: str = ""


def digest_of(files: list[Path]) -> str:
    """Return the SHA-256 of the files' contents, in order."""
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in files)).hexdigest()


def read_state(environment: Path) -> State | None:
    """Return the state that the last setup stored; None if there is none or it is invalid."""
    try:
        state = State(**json.loads((environment / STATE).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return state if state.profile in PROFILES else None


def write_state(environment: Path, state: State) -> None:
    """Replace the state atomically."""
    scratch = environment / f"{STATE}.new"
    scratch.write_text(json.dumps(asdict(state), indent=2) + "\n")
    scratch.replace(environment / STATE)


def python_of(environment: Path) -> str | None:
    """Return the version ("3.11") of an environment with an interpreter and a complete pip, else None."""
    if not os.access(environment / "bin" / "python", os.X_OK):
        return None
    for version in ("3.11", "3.12"):
        packages = site_packages(environment, version)
        if any(is_whole(info) for info in packages.glob("pip-*.dist-info")):
            return version
    return None


def site_packages(environment: Path, python: str) -> Path:
    """Return the folder of an environment's packages."""
    return environment / "lib" / f"python{python}" / "site-packages"


def is_whole(info: Path) -> bool:
    """Whether the package of this dist-info folder was installed completely and still has its top-level entries."""
    try:
        record = (info / "RECORD").read_text(encoding="utf-8")
    except OSError:
        return False
    # pip writes INSTALLER after a package's own files.
    entries = {line.split("/", 1)[0].split(",", 1)[0] for line in record.splitlines()} - {"..", "", "__pycache__"}
    return (info / "INSTALLER").exists() and all((info.parent / entry.strip('"')).exists() for entry in entries)


def installed(packages: Path) -> tuple[dict[str, str], list[Path]]:
    """Return the complete packages (versions by name) of a folder, and the dist-info folders of broken ones."""
    whole: dict[str, str] = {}
    broken: list[Path] = []
    for info in packages.glob("*.dist-info"):
        name, _, version = info.name.removesuffix(".dist-info").partition("-")
        if is_whole(info):
            whole[normalize(name)] = version.partition("+")[0]
        else:
            broken.append(info)
    return whole, broken


# Creating it


@dataclass(frozen=True)
class Pip:
    """An environment's pip: prints the step's progress only, and the whole output if it fails."""

    environment: Path

    def __call__(self, title: str, arguments: list[str]) -> None:
        command = [str(self.environment / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check"]
        command += ["--no-input", "--progress-bar=off", "--no-warn-conflicts", *arguments]
        output: list[str] = []
        started = time.monotonic()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True
        ) as pip:
            assert pip.stdout is not None
            with progress(title) as show:
                for line in pip.stdout:
                    output.append(line)
                    if line.lstrip().startswith(("Collecting", "Downloading", "Installing")):
                        show(line.strip())
        if pip.returncode:
            report(f"{title}: failed\n\n{' '.join(command)}\n\n{''.join(output)}")
            raise SetupError("pip failed, see its output above; run `make setup` again to resume")
        report(f"{title}: {time.monotonic() - started:.0f} s")


@contextmanager
def progress(title: str) -> Iterator[Callable[[str], None]]:
    """Show a changing line on a terminal; elsewhere print the title once, so that a log shows the current step."""
    terminal = sys.stdout.isatty()
    if not terminal:
        report(f"{title} ...")

    def show(what: str) -> None:
        if terminal:
            line = f"setup: {title}: {what}"[: shutil.get_terminal_size().columns - 1]
            print(f"\r\033[K{line}", end="", flush=True)

    show("...")
    yield show
    if terminal:
        print("\r\033[K", end="", flush=True)


def report(message: str) -> None:
    """Print a line of the setup."""
    print(f"setup: {message}", flush=True)


def create_environment(environment: Path) -> None:
    """Create an empty environment with pip, replacing any existing one."""
    try:
        venv.create(environment, clear=True, with_pip=True, symlinks=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SetupError(f"could not create an environment in {environment}: {error}") from error


@contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Make a second setup of the same checkout wait until the first is done."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("waiting for another setup of this checkout")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def set_up(
    root: Path,
    profile: Profile,
    reason: str,
    keep_python: bool = True,
    create: Callable[[Path], None] = create_environment,
    pip: Callable[[str, list[str]], None] | None = None,
) -> bool:
    """Install the profile into `root`/.venv; return whether there was something to do.

    An environment with another profile, from another place or with a broken interpreter is recreated; `keep_python`
    keeps one with the other supported Python version. In any other environment, only missing packages are installed.
    """
    environment = root / ".venv"
    left = read_state(environment)
    here, there = "{}.{}".format(*sys.version_info), python_of(environment)
    same = left is None or (left.profile, left.root) == (profile.name, str(root))
    usable = same and there is not None and (there == here or keep_python)
    python = there if there and usable else here
    begun = State(profile.name, python, str(root))
    finished = replace(begun, digest=digest_of([*profile.locks, root / "pyproject.toml"]))

    whole, broken = installed(site_packages(environment, python)) if usable else ({}, [])
    if left == finished and PACKAGE in whole and profile.pins.items() <= whole.items():
        report(f"up to date ({profile.name} profile, Python {python})")
        return False

    started = time.monotonic()
    report(f"{profile.name} profile ({reason}), Python {python}, into {environment}")
    if not usable:
        create(environment)
    write_state(environment, begun)
    for info in broken:
        shutil.rmtree(info)
    pip = pip or Pip(environment)
    for title, arguments in profile.steps:
        pip(title, ["--only-binary=:all:", *arguments])
    pip(PACKAGE, ["--no-deps", "--no-build-isolation", "--editable", str(root)])
    write_state(environment, finished)
    report(f"done in {time.monotonic() - started:.0f} s")
    return True


def check_tools(environment: Path, cuda: str) -> None:
    """Print what this machine lacks for a server on a GPU."""
    command = [str(environment / "bin" / "python"), "-m", "sglang_speechlm.platform.cuda", cuda]
    for line in subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines():
        report(f"a server on a GPU will not start on this machine: {line}")


def main() -> int:
    requirements = ROOT / "launch" / "requirements"
    try:
        with one_at_a_time(requirements):
            left = read_state(ROOT / ".venv")
            name, reason = choose_profile(os.environ.get("PROFILE"), left.profile if left else None)
            profile = Profile(name, requirements)
            set_up(ROOT, profile, reason, keep_python=not os.environ.get("PYTHON"))
            if name == "cuda":
                check_tools(ROOT / ".venv", profile.pins["cuda-toolkit"])
    except SetupError as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; run `make setup` again to resume", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
