"""Container files and the Kubernetes manifest: their linters, and that they fit each other and the product."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from server import Server

from launch import setup
from sglang_speechlm.options.fleet import read

ROOT = Path(__file__).parents[2]
LAUNCH = ROOT / "launch"
DOCKERFILES = sorted((LAUNCH / "containers").glob("*.Dockerfile"))
MANIFEST = LAUNCH / "kubernetes" / "speechlm.yaml"
OBJECTS: list[dict[str, Any]] = list(yaml.safe_load_all(MANIFEST.read_text()))
PODS = {each["metadata"]["name"]: each["spec"] for each in OBJECTS if "template" in each["spec"]}
YAML_STYLE = "{extends: default, rules: {line-length: {max: 120}, document-start: disable}}"
CLEARING_SECONDS = 20
"""From the end of --drain-timeout to the end of the server, at most."""


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """Instruction and arguments, lines that go on joined and comments left out."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    words = (line.partition(" ") for line in text.splitlines() if line)
    return [(name, arguments.strip()) for name, _, arguments in words]


def last(dockerfile: Path, name: str) -> str:
    return [arguments for instruction, arguments in instructions(dockerfile) if instruction == name][-1]


def container(name: str) -> dict[str, Any]:
    (found,) = PODS[name]["template"]["spec"]["containers"]
    return dict(found)


def option(name: str, of: str) -> str:
    (value,) = (argument.partition("=")[2] for argument in container(of)["args"] if argument.startswith(f"{name}="))
    return value


# Containers


def test_there_is_one_for_each_profile() -> None:
    assert {file.stem for file in DOCKERFILES} == set(setup.PROFILES)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.stem)
def test_hadolint_has_no_complaint(dockerfile: Path) -> None:
    command = [str(Path(sys.executable).with_name("hadolint")), "--failure-threshold", "style", str(dockerfile)]
    subprocess.run(command, check=True)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.stem)
def test_a_container_installs_its_locked_profile(dockerfile: Path) -> None:
    runs = [arguments for name, arguments in instructions(dockerfile) if name == "RUN"]
    assert any(f"PROFILE={dockerfile.stem}" in run and "launch/setup.py" in run for run in runs)


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.stem)
def test_what_a_container_copies_is_there_and_not_ignored(dockerfile: Path) -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = [arguments.split()[:-1] for name, arguments in instructions(dockerfile) if name == "COPY"]
    sources = {source for sources in copied for source in sources if not source.startswith(("--", "/"))}
    assert all((ROOT / source).exists() for source in sources)
    assert sources == kept


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.stem)
def test_a_container_runs_the_launcher_itself_as_an_ordinary_user(dockerfile: Path) -> None:
    # In exec form no shell stands between the signals and the launcher.
    command = json.loads(last(dockerfile, "ENTRYPOINT")) + json.loads(last(dockerfile, "CMD"))
    assert command[1:3] == ["-m", "sglang_speechlm.launch"]
    assert last(dockerfile, "STOPSIGNAL") == "SIGTERM"
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", last(dockerfile, "USER"))
    assert command[command.index("--port") + 1] == last(dockerfile, "EXPOSE")


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=lambda file: file.stem)
def test_a_health_check_passes_on_a_server_that_serves_only(dockerfile: Path, server: Server) -> None:
    command = json.loads(last(dockerfile, "HEALTHCHECK").partition("CMD")[2])
    port = last(dockerfile, "EXPOSE")
    program = command[-1].replace(f":{port}/", f":{server.url.rpartition(':')[2]}/")
    assert program != command[-1]
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
    assert subprocess.run([sys.executable, "-c", command[-1]], stderr=subprocess.DEVNULL, check=False).returncode == 1


# YAML


@pytest.mark.parametrize("file", sorted(LAUNCH.rglob("*.y*ml")), ids=lambda file: file.name)
def test_yamllint_has_no_complaint(file: Path) -> None:
    subprocess.run([sys.executable, "-m", "yamllint", "--strict", "-d", YAML_STYLE, str(file)], check=True)


@pytest.mark.parametrize("one", OBJECTS, ids=lambda one: f"{one['kind']} {one['metadata']['name']}")
def test_objects_are_what_kubernetes_takes(one: dict[str, Any]) -> None:
    kubernetes_validate.validate(one, "1.32", strict=True)


# The manifest


@pytest.mark.parametrize("name", PODS)
def test_a_pod_has_time_to_finish_its_answers(name: str) -> None:
    before = float(container(name)["lifecycle"]["preStop"]["exec"]["command"][-1])
    needed = before + float(option("--drain-timeout", name)) + CLEARING_SECONDS
    assert PODS[name]["template"]["spec"]["terminationGracePeriodSeconds"] > needed


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_an_ordinary_user_with_limits_and_probes(name: str) -> None:
    pod = container(name)
    assert PODS[name]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    assert "memory" in pod["resources"]["limits"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(pod)
    # Without the key nothing else answers.
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "tcpSocket" in pod[probe] or pod[probe]["httpGet"]["path"] == "/health"


@pytest.mark.parametrize("kind", ["Service", "PodDisruptionBudget"])
def test_selectors_find_pods(kind: str) -> None:
    labels = [pod["template"]["metadata"]["labels"].items() for pod in PODS.values()]
    chosen = [one["spec"]["selector"] for one in OBJECTS if one["kind"] == kind]
    assert chosen
    for selector in chosen:
        wanted = selector.get("matchLabels", selector).items()
        assert sum(wanted <= each for each in labels) == 1


@pytest.mark.parametrize("name", PODS)
def test_a_pod_listens_where_its_container_does(name: str) -> None:
    (port,) = container(name)["ports"]
    image = container(name)["image"].rpartition(":")[2]
    assert str(port["containerPort"]) == last(LAUNCH / "containers" / f"{image}.Dockerfile", "EXPOSE")


def test_the_router_knows_every_worker() -> None:
    arguments = [*entrypoint("cpu"), *container("speechlm-router")["args"]]
    workers = PODS["speechlm-worker"]
    expected = [
        f"http://speechlm-worker-{number}.{workers['serviceName']}:9000" for number in range(workers["replicas"])
    ]
    options = read(arguments)
    assert list(options.urls) == expected
    assert (options.workers, options.host, options.port) == (0, "0.0.0.0", 9000)
    assert options.log_format == "json"


def test_both_sides_take_the_same_key() -> None:
    assert option("--api-key", "speechlm-router") == option("--api-key", "speechlm-worker") == "$(SPEECHLM_API_KEY)"
    assert container("speechlm-router")["env"] == container("speechlm-worker")["env"]


def test_the_worker_takes_its_options() -> None:
    from sglang_speechlm.options.command_line import build_parser

    arguments = [*entrypoint("cuda"), *container("speechlm-worker")["args"]]
    _, others = build_parser().parse_known_args(arguments)
    assert {argument.partition("=")[0] for argument in others if argument.startswith("-")} == {
        "--host", "--port", "--enable-metrics", "--api-key"
    }  # fmt: skip


def entrypoint(profile: str) -> list[str]:
    """The arguments that come before a pod's own."""
    command: list[str] = json.loads(last(LAUNCH / "containers" / f"{profile}.Dockerfile", "ENTRYPOINT"))
    return command[3:]


def test_the_comments_commands_name_files_that_there_are() -> None:
    for file in (*DOCKERFILES, MANIFEST, LAUNCH / "prometheus" / "prometheus.yml"):
        for line in re.findall(r"^#   (.*)", file.read_text(), re.MULTILINE):
            for word in shlex.split(line):
                assert not word.startswith("launch/") or (ROOT / word).exists()
